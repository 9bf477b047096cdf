"""ChatGLM's residual sum and layer norm as one Triton kernel each way. Imported only for tensors on a GPU.

A program computes one row (a token) of e channels. Sums are in fp32. Forward rounds the sum that a norm reads, which
backward reads again, and the norm. Backward rounds its result alone.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from vglm_train.model.launch import launch

BLOCK = 1024  # numbers that one program adds


@triton.jit
def _forward(
    x, y, weight, bias, total, out, mean, scale, width, eps, alpha, adds: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    number = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, block)
    inside = channel < width
    where = number * width + channel
    value = tl.load(x + where, mask=inside, other=0.0).to(tl.float32)
    if adds:
        value = value * alpha + tl.load(y + where, mask=inside, other=0.0).to(tl.float32)
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + where, rounded, mask=inside)
        value = rounded.to(tl.float32)
    middle = tl.sum(value, 0) / width
    apart = tl.where(inside, value - middle, 0.0)
    factor = tl.rsqrt(tl.sum(apart * apart, 0) / width + eps)
    tl.store(mean + number, middle)
    tl.store(scale + number, factor)
    gain = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + where, (apart * factor * gain + shift).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _backward(of_product, of_residual, h, weight, mean, scale, dh, width, alpha, block: tl.constexpr):
    number = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, block)
    inside = channel < width
    where = number * width + channel
    slope = tl.load(of_residual + where, mask=inside, other=0.0).to(tl.float32) * alpha
    slope += tl.load(of_product + where, mask=inside, other=0.0).to(tl.float32)
    slope *= tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(h + where, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(scale + number)
    normed = tl.where(inside, (value - tl.load(mean + number)) * factor, 0.0)
    along, level = tl.sum(slope * normed, 0) / width, tl.sum(slope, 0) / width
    tl.store(dh + where, (factor * (slope - normed * along - level)).to(dh.dtype.element_ty), mask=inside)


@triton.jit
def _add(x, y, out, count, alpha, block: tl.constexpr):
    where = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = where < count
    value = tl.load(x + where, mask=inside).to(tl.float32) * alpha + tl.load(y + where, mask=inside).to(tl.float32)
    tl.store(out + where, value.to(out.dtype.element_ty), mask=inside)


def norm(h: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """h [...,e] contiguous, weight and bias [e] -> its layer norm, and each row's mean and 1/deviation [rows] fp32."""
    out, rows = torch.empty_like(h), h.numel() // h.shape[-1]
    mean, scale = (torch.empty(rows, dtype=torch.float32, device=h.device) for _ in range(2))
    if rows:
        inputs = h, h, weight, bias, h, out, mean, scale
        launch(_forward, (rows,), *inputs, h.shape[-1], eps, 1.0, adds=False, **_size(h.shape[-1]))
    return out, mean, scale


def add_and_norm(
    residual: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float, alpha: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """residual, y [...,e] contiguous -> the layer norm of alpha residual + y, that sum, and what `norm` returns of
    it."""
    out, total, width = torch.empty_like(y), torch.empty_like(y), y.shape[-1]
    rows = y.numel() // width
    mean, scale = (torch.empty(rows, dtype=torch.float32, device=y.device) for _ in range(2))
    if rows:
        inputs = residual, y, weight, bias, total, out, mean, scale
        launch(_forward, (rows,), *inputs, width, eps, alpha, adds=True, **_size(width))
    return out, total, mean, scale


def add(residual: Tensor, y: Tensor, alpha: float) -> Tensor:
    """alpha residual + y, contiguous."""
    out, count = torch.empty_like(y), y.numel()
    if count:
        launch(_add, (triton.cdiv(count, BLOCK),), residual, y, out, count, alpha, block=BLOCK)
    return out


def backward(
    of_product: Tensor, of_residual: Tensor, h: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, alpha: float
) -> Tensor:
    """The gradient of h, which a norm read, where that of the norm is of_product + alpha of_residual [...,e]."""
    dh, width = torch.empty_like(h), h.shape[-1]
    if len(mean):
        inputs = of_product, of_residual, h, weight, mean, scale, dh
        launch(_backward, (len(mean),), *inputs, width, alpha, **_size(width))
    return dh


def _size(width: int) -> dict[str, int]:
    block = triton.next_power_of_2(width)
    return {"block": block, "num_warps": min(max(block // 512, 1), 16)}
