"""2-D RoPE of ChatGLM: each half of a head is rotated by a position of its own (GLM, arXiv:2103.10360; RoFormer,
arXiv:2104.09864), in fp32 whatever the precision of the model.

b rows, s tokens, h heads, d width of a head.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vglm_train.model.launch import builds

Rotation = tuple[Tensor, Tensor]  # cosines and sines


class Rotary(nn.Module):
    """SAT's frequencies for one half of a head; fp32 whatever the module is cast to, real even on the meta device."""

    inv_freq: Tensor

    def __init__(self, inv_freq: Tensor) -> None:
        super().__init__()
        assert inv_freq.dtype == torch.float32
        self.register_buffer("inv_freq", inv_freq, persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        kept = self.inv_freq
        nn.Module._apply(self, fn, recurse)
        device = self.inv_freq.device
        self.inv_freq = kept if device.type == "meta" else kept.to(device)
        return self

    def forward(self, positions: Tensor) -> Rotation:
        """2-D positions [b,2,s] -> cosines and sines [b,s,1,2,d/4] fp32, the 2 being the halves of a head."""
        angles = positions.transpose(1, 2)[:, :, None, :, None].float() * self.inv_freq
        return angles.cos().contiguous(), angles.sin().contiguous()


class SplitAndRotate(torch.autograd.Function):
    """qkv [b,s,3,h,d] -> q and k, rotated within each half of d, and v, [b,s,h,d] each.

    One autograd step instead of many: it keeps only cosines and sines, frees qkv, and writes the gradient of qkv into
    one buffer.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        b, s, parts, heads, width = qkv.shape
        q, k, v = out = qkv.new_empty(parts, b, s, heads, width).unbind(0)
        _rotate_on(qkv)(qkv.unbind(2), out, cos, sin)
        return q, k, v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Any:
        grad = q.new_empty(*q.shape[:2], 3, *q.shape[2:])
        grads = (q.contiguous(), k.contiguous(), v.contiguous())
        _rotate_on(grad)(grads, grad.unbind(2), *ctx.saved_tensors, inverse=True)
        return grad, None, None


class Rotate(Protocol):
    """Rotate q and k of `inputs`, [b,s,h,d] each, by cos and sin [b,s,1,2,d/4] into those of `outputs`; copy v."""

    def __call__(
        self,
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
        cos: Tensor,
        sin: Tensor,
        *,
        inverse: bool = False,
    ) -> None:
        """`inverse`: rotate the other way."""


def rotate(
    inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], cos: Tensor, sin: Tensor, *, inverse: bool = False
) -> None:
    """See Rotate; torch's own operations, on any device."""
    sin = -sin if inverse else sin
    for x, out in zip(inputs[:2], outputs):
        first, second = x.unflatten(-1, (2, 2, -1)).unbind(-2)  # [b,s,h,2,d/4] each
        rotated = out.unflatten(-1, (2, 2, -1))
        torch.addcmul(first * cos, second, sin, value=-1, out=rotated[..., 0, :])
        torch.addcmul(second * cos, first, sin, out=rotated[..., 1, :])
    outputs[2].copy_(inputs[2])


def rotates_in_place(qkv: Tensor) -> bool:
    """Whether `rotate_in_place` can take [b,s,3,h,d]."""
    return qkv.is_cuda and qkv.is_contiguous() and _triton_rotate() is not None


def rotate_in_place(qkv: Tensor, cos: Tensor, sin: Tensor, *, inverse: bool = False) -> None:
    """Rotate the q and k of [b,s,3,h,d] where they lie. Whoever needs them as they were for backward gets an error."""
    kernel, parts = _triton_rotate(), qkv.detach().unbind(2)
    assert kernel is not None
    kernel(parts, parts, cos, sin, inverse=inverse)
    torch.autograd.graph.increment_version(qkv)


def _rotate_on(x: Tensor) -> Rotate:
    return (_triton_rotate() if x.is_cuda else None) or rotate


@builds("ChatGLM runs a tenth slower")
def _triton_rotate() -> Rotate:
    """One kernel instead of eight, a tenth of a full-size step."""
    from vglm_train.model.language.glm.rope_triton import rotate as kernel

    x = torch.zeros(3, 1, 1, 1, 4, device="cuda")
    angles = torch.zeros(1, 1, 1, 2, 1, device="cuda")
    kernel(x.unbind(0), x.clone().unbind(0), angles, angles)
    return kernel
