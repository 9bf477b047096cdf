"""Modules of transformers whose work between the matrix products is one kernel each way on a GPU.

transformers computes an RMS norm and a gated activation by some ten operations each, and as many in backward; each is a
pass over memory and a launch. Kernels take their place on a GPU, in 16 bits, while the norm's weight is frozen. A
module runs its own code everywhere else, and where torch.compile traces it.

f width of the MLP.
"""

from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vglm_train.autograd import apply
from vglm_train.model.language.hf.frozen import HALF, project
from vglm_train.model.launch import builds

WIDEST = 8192  # norm that a program computes
SHORT_SDPA = "short_sdpa"  # transformers' name of the attention in `attention.py`
# classes of activations -> what the kernels call them
ACTS = {
    "NewGELUActivation": "gelu_tanh",
    "GELUTanh": "gelu_tanh",
    "GELUActivation": "gelu",
    "SiLUActivation": "silu",
    "SiLU": "silu",
}


def takes(x: Tensor) -> bool:
    """Whether kernels compute what follows from x."""
    if torch.compiler.is_compiling() or not x.is_cuda or not x.is_contiguous() or not x.numel():
        return False
    return not torch.is_autocast_enabled("cuda") and kernels() is not None


class Norm(nn.Module):
    """weight * (x / rms(x)), where the quotient is rounded to the dtype of x."""

    takes_fp32: ClassVar[bool] = False  # whether x may be in fp32, and the quotient is rounded to the weight's dtype
    weight: Tensor
    variance_epsilon: float

    def forward(self, x: Tensor) -> Any:
        if not takes(x) or not self._fits(x, self.weight):
            return super().forward(x)
        return apply(_Norm, x, self.weight, self.variance_epsilon)

    def _fits(self, x: Tensor, weight: Tensor) -> bool:
        same = x.dtype == weight.dtype or (self.takes_fp32 and x.dtype == torch.float32)
        return same and weight.dtype in HALF and not weight.requires_grad and x.shape[-1] <= WIDEST


class Mlp(nn.Module):
    act_fn: nn.Module
    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, x: Tensor) -> Any:
        if not takes(x):
            return super().forward(x)
        return self.down_proj(gated(self.act_fn, *project(x, (self.gate_proj, self.up_proj))))


class PackedMlp(nn.Module):
    """One product makes both the gate and what it gates."""

    activation_fn: nn.Module
    gate_up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, x: Tensor) -> Any:
        if not takes(x):
            return super().forward(x)
        return self.down_proj(gated_halves(self.activation_fn, self.gate_up_proj(x)))


def gated(act: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    """act(a) * b, both [...,f]."""
    kind, fits = ACTS.get(type(act).__name__), a.dtype in HALF and a.dtype == b.dtype
    if kind is None or not fits or not takes(a) or not b.is_contiguous():
        product: Tensor = act(a) * b
        return product
    hidden: Tensor = apply(_Gated, a, b, kind)
    return hidden


def gated_halves(act: nn.Module, x: Tensor) -> Tensor:
    """act(a) * b, a and b being the halves of x [...,2f]."""
    kind = ACTS.get(type(act).__name__)
    if kind is None or x.dtype not in HALF or not takes(x):
        a, b = x.chunk(2, -1)
        product: Tensor = b * act(a)
        return product
    hidden: Tensor = apply(_GatedHalves, x, kind)
    return hidden


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out: Tensor
        out, scale = built().norm(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        return built().norm_backward(grad.contiguous(), *ctx.saved_tensors), None, None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, act: str) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.act = act
        hidden: Tensor = built().gated(_rows(a), _rows(b), act)
        return hidden.view(a.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        a, b = ctx.saved_tensors
        da, db = torch.empty_like(a), torch.empty_like(b)
        built().gated_backward(*(_rows(each) for each in (grad.contiguous(), a, b, da, db)), ctx.act)
        return da, db, None


class _GatedHalves(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, act: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.act = act
        hidden: Tensor = built().gated(*_rows(x).chunk(2, -1), act)
        return hidden.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        dx = torch.empty_like(x)
        halves = (*_rows(x).chunk(2, -1), *_rows(dx).chunk(2, -1))
        built().gated_backward(_rows(grad.contiguous()), *halves, ctx.act)
        return dx, None


def _rows(x: Tensor) -> Tensor:
    return x.view(-1, x.shape[-1])


def built() -> ModuleType:
    found = kernels()
    assert found is not None
    return found


@builds("language models run slower")
def kernels() -> ModuleType:
    from vglm_train.model.language.hf import fused_triton

    x = torch.zeros(1, 16, device="cuda", dtype=torch.bfloat16)
    _, scale = fused_triton.norm(x, x[0], 1e-6)
    fused_triton.norm_backward(x, x, x[0], scale)
    _, _, mean, scale = fused_triton.add_norm(x, x, x[0], x[0], 1e-6)
    fused_triton.add_norm_backward(x, x, x, x[0], mean, scale)
    for act in sorted(set(ACTS.values())):
        fused_triton.gated_backward(fused_triton.gated(x, x, act), x, x, x.clone(), x.clone(), act)
    return fused_triton
