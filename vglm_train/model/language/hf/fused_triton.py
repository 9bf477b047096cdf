"""RMS norms, norms with their residual sums, and gated activations as one Triton kernel each way. Imported only
for tensors on a GPU.

Sums and functions are in fp32. Forward rounds to 16 bits where the plain modules do: the RMS norm before its weight,
the residual sum before its norm, the activation before its gate. Backward rounds its results alone.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from vglm_train.model.launch import launch

BLOCK = 1024  # gated values that one program computes


@triton.jit
def _norm(x, weight, out, scale, width, eps, block: tl.constexpr):
    number = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, block)
    inside = channel < width
    value = tl.load(x + number * width + channel, mask=inside, other=0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(value * value, 0) / width + eps)
    tl.store(scale + number, factor)
    gain = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    normed = (value * factor).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + number * width + channel, (normed * gain).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _norm_backward(grad, x, weight, scale, dx, width, block: tl.constexpr):
    number = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, block)
    inside = channel < width
    factor = tl.load(scale + number)
    normed = tl.load(x + number * width + channel, mask=inside, other=0.0).to(tl.float32) * factor
    slope = tl.load(grad + number * width + channel, mask=inside, other=0.0).to(tl.float32)
    slope *= tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    along = tl.sum(slope * normed, 0) / width
    value = factor * (slope - normed * along)
    tl.store(dx + number * width + channel, value.to(dx.dtype.element_ty), mask=inside)


@triton.jit
def _add_norm(
    x, added, weight, bias, total, out, mean, scale, width, eps,
    adds: tl.constexpr, rms: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, block)
    inside = channel < width
    where = number * width + channel
    value = tl.load(x + where, mask=inside, other=0.0).to(tl.float32)
    if adds:
        value += tl.load(added + where, mask=inside, other=0.0).to(tl.float32)
        rounded = value.to(total.dtype.element_ty)  # what the plain sum is: the norm is of that
        tl.store(total + where, rounded, mask=inside)
        value = rounded.to(tl.float32)
    if not rms:
        middle = tl.sum(value, 0) / width
        tl.store(mean + number, middle)
        value = tl.where(inside, value - middle, 0.0)
    factor = tl.rsqrt(tl.sum(value * value, 0) / width + eps)
    tl.store(scale + number, factor)
    value *= factor
    gain = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    if rms:
        value = value.to(out.dtype.element_ty).to(tl.float32) * gain
    else:
        value = value * gain + tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + where, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _add_norm_backward(
    above, grad, total, weight, mean, scale, dx, width, rms: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    number = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, block)
    inside = channel < width
    where = number * width + channel
    factor = tl.load(scale + number)
    value = tl.load(total + where, mask=inside, other=0.0).to(tl.float32)
    slope = tl.load(grad + where, mask=inside, other=0.0).to(tl.float32)
    slope *= tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    level = 0.0
    if not rms:
        value = tl.where(inside, value - tl.load(mean + number), 0.0)
        level = tl.sum(slope, 0) / width
    value *= factor
    along = tl.sum(slope * value, 0) / width
    value = factor * (slope - value * along - level)
    value += tl.load(above + where, mask=inside, other=0.0).to(tl.float32)
    tl.store(dx + where, value.to(dx.dtype.element_ty), mask=inside)


@triton.jit
def _share(x, act: tl.constexpr):
    """The share s of an activation x * s, and its derivative."""
    if act == "gelu":
        share = 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)
        slope = 0.3989422804014327 * tl.exp(-0.5 * x * x)
    elif act == "gelu_tanh":  # 1 + tanh(u) is 2 sigmoid(2u)
        share = tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
        slope = share * (1.0 - share) * 1.5957691216057308 * (1.0 + 0.134145 * x * x)
    else:
        share = tl.sigmoid(x)
        slope = share * (1.0 - share)
    return share, slope


@triton.jit
def _gated(a, b, out, width, a_row, b_row, act: tl.constexpr, block: tl.constexpr):
    number = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * block + tl.arange(0, block)
    inside = channel < width
    x = tl.load(a + number * a_row + channel, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(b + number * b_row + channel, mask=inside, other=0.0).to(tl.float32)
    share, _ = _share(x, act)
    active = (x * share).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + number * width + channel, (active * gate).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gated_backward(grad, a, b, da, db, width, a_row, b_row, act: tl.constexpr, block: tl.constexpr):
    number = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * block + tl.arange(0, block)
    inside = channel < width
    x = tl.load(a + number * a_row + channel, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(b + number * b_row + channel, mask=inside, other=0.0).to(tl.float32)
    above = tl.load(grad + number * width + channel, mask=inside, other=0.0).to(tl.float32)
    share, slope = _share(x, act)
    tl.store(da + number * a_row + channel, (above * gate * (share + x * slope)).to(da.dtype.element_ty), mask=inside)
    tl.store(db + number * b_row + channel, (above * x * share).to(db.dtype.element_ty), mask=inside)


def norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x [...,c] contiguous, weight [c] -> weight * x / rms(x) in the weight's dtype, and 1 / rms(x) [rows] fp32."""
    out, rows = torch.empty_like(x, dtype=weight.dtype), x.numel() // x.shape[-1]
    scale = torch.empty(rows, dtype=torch.float32, device=x.device)
    launch(_norm, (rows,), x, weight, out, scale, x.shape[-1], eps, **_size(x.shape[-1]))
    return out, scale


def norm_backward(grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """The gradient of x, in its dtype; `scale` is what `norm` returned."""
    dx = torch.empty_like(x)
    launch(_norm_backward, (len(scale),), grad, x, weight, scale, dx, x.shape[-1], **_size(x.shape[-1]))
    return dx


def add_norm(
    x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """x, added [...,c] contiguous, weight, bias [c], all of one dtype. Without a bias the norm is an RMS norm.

    Returns x + added (x itself, where added is None), its norm, and each row's mean (of a layer norm) and 1/deviation
    [rows] fp32.
    """
    out, rows = torch.empty_like(x), x.numel() // x.shape[-1]
    total = x if added is None else torch.empty_like(x)
    scale = torch.empty(rows, dtype=torch.float32, device=x.device)
    mean = None if bias is None else torch.empty_like(scale)
    inputs, how = (x, added, weight, bias, total, out, mean, scale), _size(x.shape[-1])
    launch(_add_norm, (rows,), *inputs, x.shape[-1], eps, adds=added is not None, rms=bias is None, **how)
    return total, out, mean, scale


def add_norm_backward(
    above: Tensor, grad: Tensor, total: Tensor, weight: Tensor, mean: Tensor | None, scale: Tensor
) -> Tensor:
    """The gradient of the sum, in its dtype: `above`, that of the sum alone, and what comes through the norm by `grad`.

    `total`, `mean` and `scale` are what `add_norm` returned.
    """
    dx = torch.empty_like(total)
    inputs, width = (above, grad, total, weight, mean, scale, dx), total.shape[-1]
    launch(_add_norm_backward, (len(scale),), *inputs, width, rms=mean is None, **_size(width))
    return dx


def _size(width: int) -> dict[str, int]:
    block = triton.next_power_of_2(width)
    return {"block": block, "num_warps": min(max(block // 256, 1), 16)}


def gated(a: Tensor, b: Tensor, act: str) -> Tensor:
    """a, b [r,f], rows contiguous -> act(a) * b [r,f]. `act`: gelu, gelu_tanh or silu."""
    rows, width = a.shape
    out = torch.empty(rows, width, dtype=a.dtype, device=a.device)
    grid = (rows, triton.cdiv(width, BLOCK))
    launch(_gated, grid, a, b, out, width, a.stride(0), b.stride(0), act=act, block=BLOCK)
    return out


def gated_backward(grad: Tensor, a: Tensor, b: Tensor, da: Tensor, db: Tensor, act: str) -> None:
    """Write the gradients of a and b, whose rows are as far apart as theirs; grad [r,f] contiguous."""
    assert (da.stride(), db.stride()) == (a.stride(), b.stride())
    rows, width = a.shape
    grid = (rows, triton.cdiv(width, BLOCK))
    launch(_gated_backward, grid, grad, a, b, da, db, width, a.stride(0), b.stride(0), act=act, block=BLOCK)
