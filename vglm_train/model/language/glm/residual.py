"""ChatGLM's residual sums and norms. One kernel each way on a GPU, in 16 bits and while the norms are frozen.

A block takes its residual from what it has normed: x = norm(h), x' = norm'(alpha x + attention(x)), and it gives
alpha x' + mlp(x'). So each x has two readers. It is returned twice here, once for the matrix product and once as the
residual, both in the same memory. Then its two gradients arrive apart, and the kernel of the norm's backward adds them
itself. The gradient of a residual is handed on without its factor alpha, which that kernel multiplies by. So a residual
may go nowhere but into `add_and_norm` or `add` of the same parts, with the same alpha; `take` may choose rows of it.

m rows in use, e embedding width.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vglm_train.autograd import apply
from vglm_train.model.language.hooks import is_wrapped
from vglm_train.model.launch import builds

HALF = (torch.float16, torch.bfloat16)
WIDEST = 8192  # norm that a program computes


def fuses(x: Tensor, *norms: nn.Module) -> bool:
    """Whether kernels compute a block with these norms that reads x. A compiler fuses the plain operations itself."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cuda"):
        return False
    if not x.is_cuda or not x.is_contiguous() or not x.numel() or x.shape[-1] > WIDEST:
        return False
    return all(_is_plain(norm, x.dtype) for norm in norms) and kernels() is not None


def _is_plain(norm: nn.Module, dtype: torch.dtype) -> bool:
    """Whether it is a frozen layer norm that does nothing else, in 16 bits."""
    if not isinstance(norm, nn.LayerNorm) or is_wrapped(norm):
        return False
    return dtype in HALF and all(
        part is not None and part.dtype == dtype and not part.requires_grad for part in (norm.weight, norm.bias)
    )


class AddAndNorm(Protocol):
    def __call__(self, residual: Tensor, y: Tensor, norm: nn.Module, alpha: float) -> tuple[Tensor, Tensor]:
        """norm(alpha residual + y) [...,e], for a product and as a residual."""


class Parts(NamedTuple):
    """What a block computes between its products."""

    norm: Callable[[Tensor, nn.Module, float], tuple[Tensor, Tensor]]
    """h [...,e], a norm, alpha -> norm(h), for a product and as a residual."""
    add_and_norm: AddAndNorm
    add: Callable[[Tensor, Tensor, float], Tensor]
    """residual, y [...,e], alpha -> alpha residual + y."""


def parts(x: Tensor, *norms: nn.Module) -> Parts:
    """For a block with these norms that reads x [...,e]."""
    return FUSED if fuses(x, *norms) else PLAIN


def _plain_norm(h: Tensor, norm: nn.Module, alpha: float) -> tuple[Tensor, Tensor]:
    x = norm(h)
    return x, x


def _plain_add_and_norm(residual: Tensor, y: Tensor, norm: nn.Module, alpha: float) -> tuple[Tensor, Tensor]:
    return _plain_norm(residual * alpha + y, norm, alpha)


def _plain_add(residual: Tensor, y: Tensor, alpha: float) -> Tensor:
    return residual * alpha + y


def _norm(h: Tensor, norm: nn.Module, alpha: float) -> tuple[Tensor, Tensor]:
    both: tuple[Tensor, Tensor] = apply(_Norm, h, norm.weight, norm.bias, norm.eps, alpha)
    return both


def _add_and_norm(residual: Tensor, y: Tensor, norm: nn.Module, alpha: float) -> tuple[Tensor, Tensor]:
    """The sum is rounded once."""
    y = y.to(residual.dtype).contiguous()
    both: tuple[Tensor, Tensor] = apply(_AddNorm, residual, y, norm.weight, norm.bias, norm.eps, alpha)
    return both


def _add(residual: Tensor, y: Tensor, alpha: float) -> Tensor:
    """The sum is rounded once."""
    total: Tensor = apply(_Add, residual, y.to(residual.dtype).contiguous(), alpha)
    return total


PLAIN, FUSED = Parts(_plain_norm, _plain_add_and_norm, _plain_add), Parts(_norm, _add_and_norm, _add)


def take(x: Tensor, rows: Tensor) -> Tensor:
    """Chosen rows of x [n,e], each of them once, rows [m] int64 -> [m,e]."""
    taken: Tensor = apply(_Take, x, rows)
    return taken


class _Take(torch.autograd.Function):
    """torch's own adds gradients up, number by number, as a row might be chosen twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = x.shape
        return x.index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        (rows,) = ctx.saved_tensors
        return grad.new_zeros(ctx.shape).index_copy_(0, rows, grad), None


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bias: Tensor, eps: float, alpha: float) -> tuple[Tensor, Tensor]:
        x, mean, scale = _built().norm(h, weight, bias, eps)
        ctx.save_for_backward(h, weight, mean, scale)
        ctx.alpha = alpha
        return x, x.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_product: Tensor, of_residual: Tensor) -> Any:
        return _gradient(ctx, of_product, of_residual), None, None, None, None


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, residual: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float, alpha: float
    ) -> tuple[Tensor, Tensor]:
        x, total, mean, scale = _built().add_and_norm(residual, y, weight, bias, eps, alpha)
        ctx.save_for_backward(total, weight, mean, scale)
        ctx.alpha = alpha
        return x, x.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_product: Tensor, of_residual: Tensor) -> Any:
        grad = _gradient(ctx, of_product, of_residual)
        return grad, grad, None, None, None, None  # whoever made the residual multiplies


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, residual: Tensor, y: Tensor, alpha: float) -> Tensor:
        total: Tensor = _built().add(residual, y, alpha)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad, grad, None  # whoever made the residual multiplies


def _gradient(ctx: Any, of_product: Tensor, of_residual: Tensor) -> Tensor:
    """Of what a norm read, from those of what it gave."""
    grads = of_product.contiguous(), of_residual.contiguous()
    found: Tensor = _built().backward(*grads, *ctx.saved_tensors, ctx.alpha)
    return found


def _built() -> ModuleType:
    found = kernels()
    assert found is not None
    return found


@builds("ChatGLM trains some per cent slower")
def kernels() -> ModuleType:
    from vglm_train.model.language.glm import residual_triton

    row = torch.zeros(1, 16, device="cuda", dtype=torch.bfloat16)
    residual_triton.norm(row, row[0], row[0], 1e-5)
    _, total, mean, scale = residual_triton.add_and_norm(row, row, row[0], row[0], 1e-5, 2.0)
    residual_triton.add(row, total, 2.0)
    residual_triton.backward(row, row, total, row[0], mean, scale, 2.0)
    return residual_triton
