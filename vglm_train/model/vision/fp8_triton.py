"""What an encoder in eight bits computes around its products, as Triton kernels. Imported only for tensors on a GPU.

Each program takes a row: what `vglm_train.model.vision.fp8` computes plainly, with its largest magnitude found and its
codes written while it is in registers. No gradient.

c channels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

CODES = torch.float8_e4m3fn
WARPS = 4  # 2 and 8 take as long for a norm of 1408; 2 takes twice as long for a GELU of 6144


@triton.jit
def _store(value, inside, channel, row, codes, scales, width, top: tl.constexpr, least: tl.constexpr):
    """Codes and the scale of a row in fp32. Channels that are not inside must be 0."""
    scale = tl.maximum(tl.div_rn(tl.max(tl.abs(value), 0), top), least)
    scale += 0.0 * tl.sum(value, 0)  # a maximum leaves NaN out
    code = tl.clamp(value * tl.div_rn(1.0, scale), -top, top)
    tl.store(codes + row * width + channel, code.to(codes.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale)


@triton.jit
def _gelu_rows(x, codes, scales, width, top: tl.constexpr, least: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, block)
    inside = channel < width
    value = tl.load(x + row * width + channel, mask=inside, other=0.0).to(tl.float32)
    # 0.5 (1 + tanh(y)) is 1 / (1 + exp(-2 y))
    value /= 1.0 + tl.exp(-1.5957691216057308 * (value + 0.044715 * value * value * value))
    _store(value, inside, channel, row, codes, scales, width, top, least)


@triton.jit
def _norm_rows(
    x, added, weight, bias, total, codes, scales, width, eps,
    has_added: tl.constexpr, top: tl.constexpr, least: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, block)
    inside = channel < width
    value = tl.load(x + row * width + channel, mask=inside, other=0.0).to(tl.float32)
    if has_added:
        value += tl.load(added + row * width + channel, mask=inside, other=0.0).to(tl.float32)
        kept = value.to(total.dtype.element_ty)  # what the plain sum rounds to: the norm is of that
        tl.store(total + row * width + channel, kept, mask=inside)
        value = kept.to(tl.float32)
    mean = tl.sum(value, 0) / width
    centred = tl.where(inside, value - mean, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 0) / width + eps)
    gain = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    _store(centred * scale * gain + shift, inside, channel, row, codes, scales, width, top, least)


def gelu(x: Tensor, top: float, least: float) -> tuple[Tensor, Tensor]:
    """x [...,c] contiguous -> codes [...,c] and scales [...,1] of its GELU in tanh form."""
    assert x.is_contiguous()
    width, (codes, scales) = x.shape[-1], _empty(x)
    block = triton.next_power_of_2(width)
    with torch.cuda.device_of(x):
        _gelu_rows[(scales.numel(),)](x, codes, scales, width, top=top, least=least, block=block, num_warps=WARPS)
    return codes, scales


def add_norm(
    x: Tensor, added: Tensor | None, norm: nn.LayerNorm, top: float, least: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x, added [...,c] contiguous -> their sum, and codes [...,c] and scales [...,1] of its layer norm in fp32."""
    assert x.is_contiguous()
    assert added is None or added.is_contiguous()
    total = x if added is None else torch.empty_like(x)
    width, (codes, scales) = x.shape[-1], _empty(x)
    with torch.cuda.device_of(x):
        _norm_rows[(scales.numel(),)](
            x, x if added is None else added, norm.weight, norm.bias, total, codes, scales, width, norm.eps,
            has_added=added is not None, top=top, least=least, block=triton.next_power_of_2(width), num_warps=WARPS,
        )  # fmt: skip
    return total, codes, scales


def _empty(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, dtype=CODES), torch.empty(*x.shape[:-1], 1, dtype=torch.float32, device=x.device)
