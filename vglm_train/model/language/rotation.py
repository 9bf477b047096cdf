"""ChatGLM's fused query, key and value taken apart and turned (2-D RoPE), as one step of autograd.

b rows, s places, h heads, d width of a head.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines [b,s,1,2,d/4] fp32: a row of positions for each half of a head."""


class SplitAndRotate(torch.autograd.Function):
    """Fused product [b,s,3,h,d] -> q and k, turned within each half of d, and v, [b,s,h,d] each.

    Turned in fp32. One step rather than autograd's many: nothing but cosines and sines is kept, the fused product is
    let go, and its gradient is written into one buffer. `fused`: by one compiled kernel each way instead of six that
    write in strides.
    """

    @staticmethod
    def forward(ctx, qkv: Tensor, cos: Tensor, sin: Tensor, fused: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.fused = fused
        return _compiled(_split)(qkv, cos, sin) if fused else _split_in_place(qkv, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx, q: Tensor, k: Tensor, v: Tensor):  # type: ignore[override]
        cos, sin = ctx.saved_tensors
        grad = _compiled(_join)(q, k, v, cos, -sin) if ctx.fused else _join_in_place(q, k, v, cos, -sin)
        return grad, None, None, None


@cache
def _compiled(function: Callable) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)


def _split(qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = qkv.unbind(2)
    return _turned(q, cos, sin), _turned(k, cos, sin), v.contiguous()


def _join(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.stack((_turned(q, cos, sin), _turned(k, cos, sin), v), 2)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [b,s,h,d] turned; a compiler makes one pass of it."""
    first, second = x.to(cos.dtype).unflatten(-1, (2, 2, -1)).unbind(-2)  # [b,s,h,2,d/4] each
    return torch.stack((first * cos - second * sin, second * cos + first * sin), -2).flatten(-3).to(x.dtype)


def _split_in_place(qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.empty_like(part, memory_format=torch.contiguous_format) for part in qkv.unbind(2))
    _turn(qkv[:, :, 0], cos, sin, q)
    _turn(qkv[:, :, 1], cos, sin, k)
    return q, k, v.copy_(qkv[:, :, 2])


def _join_in_place(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    grad = q.new_empty(*q.shape[:2], 3, *q.shape[2:])
    _turn(q, cos, sin, grad[:, :, 0])
    _turn(k, cos, sin, grad[:, :, 1])
    grad[:, :, 2] = v
    return grad


def _turn(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """`_turned` x into `out`, its like, without a copy in fp32."""
    first, second = x.unflatten(-1, (2, 2, -1)).unbind(-2)
    turned = out.view(*out.shape[:-1], 2, 2, -1)
    torch.addcmul(first * cos, second, sin, value=-1, out=turned[..., 0, :])
    torch.addcmul(second * cos, first, sin, out=turned[..., 1, :])
