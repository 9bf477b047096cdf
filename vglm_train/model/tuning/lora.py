"""LoRA (arXiv:2106.09685): y = W x + alpha / rank * B A x beside any frozen product, W of any form and dtype.

i inputs, o outputs, r rank.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vglm_train.config.tuning import Lora
from vglm_train.errors import UserError
from vglm_train.model.language.adapter import Adapter
from vglm_train.model.language.base import LanguageModel
from vglm_train.model.language.fp16_gradients import GradientScaling
from vglm_train.model.language.linears import Linear, linears, match_targets
from vglm_train.model.language.nf4 import Nf4Linear
from vglm_train.model.tuning.seeded_init import seeded_random

ALIGNED = 8  # columns: a half-precision product of fewer reads unaligned rows, many times slower


class LowRank(Adapter):
    """B A of one product, fp32; B begins at zero, so that nothing changes."""

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.scale, self.dropout = scale, dropout
        self.lora_a = nn.Parameter(torch.zeros(rank, inputs))
        self.lora_b = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        """The product's input [...,i] -> what is added to its output [...,o], both in the frozen model's dtype."""
        if self.training and self.dropout:
            x = F.dropout(x, self.dropout)
        return _Update.apply(x, self.lora_a, self.lora_b, self.scale, self.gate)

    def delta(self) -> Tensor:
        """What would be added to the weight [o,i], fp32."""
        return self.scale * (self.lora_b.detach() @ self.lora_a.detach())


class _Update(torch.autograd.Function):
    """scale * x A' B' in x's dtype. Gradients of A and B come back in fp32, and through the gate of an fp16 model."""

    @staticmethod
    def forward(ctx, x: Tensor, a: Tensor, b: Tensor, scale: float, gate: GradientScaling | None) -> Tensor:
        narrow_a, narrow_b = _narrow(a, b, scale, x.dtype)
        inner = F.linear(x, narrow_a)  # [...,r]
        ctx.save_for_backward(x, a, b, inner)
        ctx.scale, ctx.gate = scale, gate
        return F.linear(inner, narrow_b)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        x, a, b, inner = ctx.saved_tensors
        narrow_a, narrow_b = _narrow(a, b, ctx.scale, x.dtype)
        grad_inner = grad @ narrow_b
        grad_a = _outer(grad_inner, x, ctx.gate)[: len(a)]
        grad_b = _outer(grad, inner, ctx.gate)[:, : len(a)] * ctx.scale
        grad_x = grad_inner @ narrow_a if ctx.needs_input_grad[0] else None
        return grad_x, grad_a, grad_b, None, None


def _narrow(a: Tensor, b: Tensor, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A [r,i] and scale * B [o,r] in `dtype`, the rank filled up with zeros."""
    more = -len(a) % ALIGNED
    return F.pad(a.to(dtype), (0, 0, 0, more)), F.pad((b * scale).to(dtype), (0, more))


def _outer(left: Tensor, right: Tensor, gate: GradientScaling | None) -> Tensor:
    """[...,m] and [...,n] -> the sum of their outer products [m,n] as a gradient outside the gate, fp32."""
    # a sum over all places could leave fp16's range, not bf16's
    dtype = torch.bfloat16 if left.dtype == torch.float16 else left.dtype
    total = left.flatten(0, -2).to(dtype).T @ right.flatten(0, -2).to(dtype)
    return total.float() if gate is None else gate.outside(total)


def attach_lora(model: LanguageModel, config: Lora, seed: int) -> list[Linear]:
    """Give each product that `config` names an update, named `....adapter.lora_a` and `.lora_b`; returns them.

    A is drawn from (seed, name) as torch's linear layers are, B is zero. FieldError for targets or blocks that are not
    there.
    """
    chosen = match_targets(list(linears(model, config.layers)), config.targets)
    for product in chosen:
        update = LowRank(*product.size, config.rank, config.alpha / config.rank, config.dropout)
        bound = product.size[0] ** -0.5
        update.lora_a = nn.Parameter(seeded_random(update.lora_a.shape, seed, product.name).mul_(2 * bound).sub_(bound))
        add_update(product, update)
    return chosen


def add_update(product: Linear, update: LowRank) -> None:
    """From now on the product gives the sum of its output and of the update's."""
    module = product.module
    update.to(product.device)
    module.add_module("adapter", update)
    update.handle = module.register_forward_hook(_add)


def _add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output + module.adapter(inputs[0])  # type: ignore[operator]


def remove_update(product: Linear) -> None:
    """The product is what it was before `add_update`."""
    product.module.adapter.handle.remove()
    del product.module.adapter


@torch.no_grad()
def merge(model: LanguageModel) -> list[str]:
    """Fold every update into its product's weight and remove it; names of the products.

    UserError for products in four bits, whose steps are wider than most updates: nothing is changed then.
    """
    changed = [product for product in linears(model) if isinstance(getattr(product.module, "adapter", None), LowRank)]
    if any(isinstance(product.module, Nf4Linear) for product in changed):
        raise UserError("updates merge into weights in full: load the language model without tuning.quantize first.")
    for product in changed:
        weight, delta = product.module.weight, product.module.adapter.delta()
        weight.copy_(weight.float() + (delta.T if product.transposed else delta))
        remove_update(product)
    return [product.name for product in changed]
