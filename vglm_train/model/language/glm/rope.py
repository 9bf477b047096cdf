"""2-D rotary positions of ChatGLM: each half of a head is turned by a position of its own (GLM, arXiv:2103.10360;
RoFormer, arXiv:2104.09864), in fp32 whatever the precision of the model.

b rows, s places, h heads, d width of a head.
"""

import logging
from functools import cache
from subprocess import CalledProcessError
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vglm_train.log import console

log = logging.getLogger(console.LOGGER)
Rotation = tuple[Tensor, Tensor]  # cosines and sines


class Rotary(nn.Module):
    """SAT's frequencies for one half of a head; fp32 whatever the module is cast to, real even on the meta device."""

    inv_freq: Tensor

    def __init__(self, inv_freq: Tensor) -> None:
        super().__init__()
        assert inv_freq.dtype == torch.float32
        self.register_buffer("inv_freq", inv_freq, persistent=False)

    def _apply(self, fn, recurse=True):
        kept = self.inv_freq
        super()._apply(fn, recurse)
        place = self.inv_freq.device
        self.inv_freq = kept if place.type == "meta" else kept.to(place)
        return self

    def forward(self, positions: Tensor) -> Rotation:
        """2-D positions [b,2,s] -> cosines and sines [b,s,1,2,d/4] fp32: a row of positions for each half of a head."""
        angles = positions.transpose(1, 2)[:, :, None, :, None].float() * self.inv_freq
        return angles.cos().contiguous(), angles.sin().contiguous()


class SplitAndRotate(torch.autograd.Function):
    """Fused product [b,s,3,h,d] -> q and k, turned within each half of d, and v, [b,s,h,d] each.

    One step rather than autograd's many: nothing but cosines and sines is kept, the fused product is let go, and its
    gradient is written into one buffer.
    """

    @staticmethod
    def forward(ctx, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        b, s, parts, heads, width = qkv.shape
        q, k, v = out = qkv.new_empty(parts, b, s, heads, width).unbind(0)
        _rotate_on(qkv)(qkv.unbind(2), out, cos, sin)
        return q, k, v

    @staticmethod
    @once_differentiable
    def backward(ctx, q: Tensor, k: Tensor, v: Tensor):  # type: ignore[override]
        grad = q.new_empty(*q.shape[:2], 3, *q.shape[2:])
        read = (q.contiguous(), k.contiguous(), v.contiguous())
        _rotate_on(grad)(read, grad.unbind(2), *ctx.saved_tensors, back=True)
        return grad, None, None


class Rotate(Protocol):
    """q and k of `read`, [b,s,h,d] each, turned by cos and sin [b,s,1,2,d/4] into those of `written`; v is copied."""

    def __call__(
        self, read: tuple[Tensor, ...], written: tuple[Tensor, ...], cos: Tensor, sin: Tensor, *, back: bool = False
    ) -> None:
        """`back`: turned the other way."""


def rotate(
    read: tuple[Tensor, ...], written: tuple[Tensor, ...], cos: Tensor, sin: Tensor, *, back: bool = False
) -> None:
    """See Turn; torch's own operations, on any device."""
    sin = -sin if back else sin
    for x, out in zip(read[:2], written):
        first, second = x.unflatten(-1, (2, 2, -1)).unbind(-2)  # [b,s,h,2,d/4] each
        turned = out.unflatten(-1, (2, 2, -1))
        torch.addcmul(first * cos, second, sin, value=-1, out=turned[..., 0, :])
        torch.addcmul(second * cos, first, sin, out=turned[..., 1, :])
    written[2].copy_(read[2])


def _rotate_on(x: Tensor) -> Rotate:
    return (_triton_rotate() if x.is_cuda else None) or rotate


@cache
def _triton_rotate() -> Rotate | None:
    """One kernel instead of eight, a tenth of a full-size step; None, said once, where it cannot be built."""
    try:
        from vglm_train.model.language.glm.rope_triton import rotate as kernel

        x = torch.zeros(3, 1, 1, 1, 4, device="cuda")
        angles = torch.zeros(1, 1, 1, 2, 1, device="cuda")
        kernel(x.unbind(0), x.clone().unbind(0), angles, angles)
    except (ImportError, OSError, RuntimeError, CalledProcessError) as error:
        log.warning("ChatGLM runs a tenth slower: the kernel of its rotation needs triton and a C compiler (%s)", error)
        return None
    return kernel
