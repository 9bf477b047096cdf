"""LoRA (arXiv:2106.09685): y = W x + alpha / rank * B A x for a frozen linear layer, W of any form and dtype.

i inputs, o outputs, r rank.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vglm_train.autograd import apply
from vglm_train.config.tuning import Lora
from vglm_train.errors import UserError
from vglm_train.model.language.adapter import Adapter
from vglm_train.model.language.base import LanguageModel
from vglm_train.model.language.fp16_gradients import GradientScaling
from vglm_train.model.language.linears import Linear, linears, match_targets
from vglm_train.model.language.packed import PackedLinear
from vglm_train.model.tuning.seeded_init import seeded_random

ALIGNED = 8  # columns: a half-precision matrix product with fewer reads unaligned rows, many times slower


class LowRank(Adapter):
    """B A of one linear layer, fp32. B starts at zero, so that nothing changes at first."""

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.scale, self.dropout = scale, dropout
        self.lora_a = nn.Parameter(torch.zeros(rank, inputs))
        self.lora_b = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        """The layer's input [...,i] -> what is added to its output [...,o], both in the frozen model's dtype."""
        if self.training and self.dropout:
            x = F.dropout(x, self.dropout)
        output: Tensor = apply(_Update, x, self.lora_a, self.lora_b, self.scale, self.scaling)
        return output

    def delta(self) -> Tensor:
        """What would be added to the weight [o,i], fp32."""
        return self.scale * (self.lora_b.detach() @ self.lora_a.detach())


class _Update(torch.autograd.Function):
    """scale * x A' B' in x's dtype. Gradients of A and B come back in fp32 and, for an fp16 model, unscaled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, scale: float, scaling: GradientScaling | None) -> Tensor:
        narrow_a, narrow_b = _narrow(a, b, scale, x.dtype)
        inner = F.linear(x, narrow_a)  # [...,r]
        ctx.save_for_backward(x, a, b, inner)
        ctx.scale, ctx.scaling = scale, scaling
        return F.linear(inner, narrow_b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, a, b, inner = ctx.saved_tensors
        narrow_a, narrow_b = _narrow(a, b, ctx.scale, x.dtype)
        grad_inner = grad @ narrow_b
        grad_a = _outer(grad_inner, x, ctx.scaling)[: len(a)]
        grad_b = _outer(grad, inner, ctx.scaling)[:, : len(a)] * ctx.scale
        grad_x = grad_inner @ narrow_a if ctx.needs_input_grad[0] else None
        return grad_x, grad_a, grad_b, None, None


def _narrow(a: Tensor, b: Tensor, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A [r,i] and scale * B [o,r] in `dtype`, the rank padded with zeros."""
    more = -len(a) % ALIGNED
    return F.pad(a.to(dtype), (0, 0, 0, more)), F.pad((b * scale).to(dtype), (0, more))


def _outer(left: Tensor, right: Tensor, scaling: GradientScaling | None) -> Tensor:
    """[...,m] and [...,n] -> the sum of their outer products [m,n] as an unscaled gradient, fp32."""
    # a sum over all tokens could leave fp16's range, not bf16's
    dtype = torch.bfloat16 if left.dtype == torch.float16 else left.dtype
    total = left.flatten(0, -2).to(dtype).T @ right.flatten(0, -2).to(dtype)
    return total.float() if scaling is None else scaling.unscale(total)


def attach_lora(model: LanguageModel, config: Lora, seed: int) -> list[Linear]:
    """Give each linear layer that `config` names an update, named `....adapter.lora_a` and `.lora_b`; returns them.

    A is initialised from (seed, name) as torch's linear layers are, B is zero. FieldError for targets or blocks that do
    not exist.
    """
    chosen = match_targets(list(linears(model, config.layers)), config.targets)
    for linear in chosen:
        update = LowRank(*linear.size, config.rank, config.alpha / config.rank, config.dropout)
        bound = linear.size[0] ** -0.5
        update.lora_a = nn.Parameter(seeded_random(update.lora_a.shape, seed, linear.name).mul_(2 * bound).sub_(bound))
        add_update(linear, update)
    return chosen


def add_update(linear: Linear, update: LowRank) -> None:
    """From now on the layer's output is the sum of its own and the update's."""
    module = linear.module
    update.to(linear.device)
    module.add_module("adapter", update)
    update.handle = module.register_forward_hook(_add)


def _add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    added: Tensor = module.adapter(inputs[0])  # type: ignore[operator]
    return output + added


def remove_update(linear: Linear) -> None:
    """Undo `add_update`."""
    linear.module.adapter.handle.remove()
    del linear.module.adapter


@torch.no_grad()
def merge(model: LanguageModel) -> list[str]:
    """Add every update to its layer's weight and remove it; names of the layers.

    UserError for quantised layers, whose steps are wider than most updates: nothing is changed then.
    """
    changed = [linear for linear in linears(model) if isinstance(getattr(linear.module, "adapter", None), LowRank)]
    if any(isinstance(linear.module, PackedLinear) for linear in changed):
        raise UserError("updates merge into weights in full: load the language model without quantising it first.")
    for linear in changed:
        weight, delta = linear.module.weight, linear.module.adapter.delta()
        weight.copy_(weight.float() + (delta.T if linear.transposed else delta))
        remove_update(linear)
    return [linear.name for linear in changed]
