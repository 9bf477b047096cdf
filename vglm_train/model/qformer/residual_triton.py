"""Dropout, residual and layer norm as one Triton kernel each way. Imported only for tensors on a GPU.

n rows (tokens) of width w. Sums are in fp32; forward rounds where the plain operations do, after dropout and after the
addition.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from vglm_train.model.launch import launch
from vglm_train.model.random_triton import kept

PROGRAMS = 4  # of backward, a multiprocessor: each adds up its rows' share of the weights' gradients
WARPS, STAGES = 4, tl.constexpr(3)  # of backward: rows that are read before they are needed


@triton.jit
def _forward(
    x, hidden, weight, bias, seed, out, added, mean, scale, width, eps, dropout,
    drops: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, block)
    inside = channel < width
    where = number * width + channel
    value = tl.load(x + where, mask=inside, other=0.0).to(tl.float32)
    if drops:
        value = tl.where(kept(tl.load(seed), where, dropout), value * (1 / (1 - dropout)), 0.0)
    before = tl.load(hidden + where, mask=inside, other=0.0).to(tl.float32)
    total = (value.to(out.dtype.element_ty).to(tl.float32) + before).to(out.dtype.element_ty)
    tl.store(added + where, total, mask=inside)
    value = total.to(tl.float32)
    middle = tl.sum(value, 0) / width
    apart = tl.where(inside, value - middle, 0.0)
    factor = tl.rsqrt(tl.sum(apart * apart, 0) / width + eps)
    tl.store(mean + number, middle)
    tl.store(scale + number, factor)
    gain = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + where, (apart * factor * gain + shift).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    grad, added, weight, seed, mean, scale, dx, dhidden, sums, rows, width, dropout,
    drops: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """`sums` [programs,3,w]: what a program's rows add to the gradients of x's bias, of the norm's weight and bias."""
    channel = tl.arange(0, block)
    inside = channel < width
    gain = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    if drops:
        drawn = tl.load(seed)
    of_x = tl.zeros([block], tl.float32)
    of_weight = tl.zeros([block], tl.float32)
    of_bias = tl.zeros([block], tl.float32)
    for number in tl.range(tl.program_id(0), rows, tl.num_programs(0), num_stages=STAGES):
        where = number.to(tl.int64) * width + channel
        slope = tl.load(grad + where, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(added + where, mask=inside, other=0.0).to(tl.float32)
        factor = tl.load(scale + number)
        normed = tl.where(inside, (value - tl.load(mean + number)) * factor, 0.0)
        of_weight += slope * normed
        of_bias += slope
        slope *= gain
        along, level = tl.sum(slope * normed, 0) / width, tl.sum(slope, 0) / width
        result = (factor * (slope - normed * along - level)).to(dx.dtype.element_ty)
        tl.store(dhidden + where, result, mask=inside)
        result = result.to(tl.float32)
        if drops:
            result = tl.where(kept(drawn, where, dropout), result * (1 / (1 - dropout)), 0.0)
        result = result.to(dx.dtype.element_ty)
        tl.store(dx + where, result, mask=inside)
        of_x += tl.where(inside, result.to(tl.float32), 0.0)
    sums += tl.program_id(0) * 3 * width + channel
    tl.store(sums, of_x, mask=inside)
    tl.store(sums + width, of_weight, mask=inside)
    tl.store(sums + 2 * width, of_bias, mask=inside)


def forward(
    x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, seed: Tensor | None, eps: float, dropout: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """norm(dropout(x) + hidden), what the norm read, and each row's mean and 1/deviation [n] fp32."""
    rows, width = x.numel() // x.shape[-1], x.shape[-1]
    out, added = torch.empty_like(x), torch.empty_like(x)
    mean, scale = (torch.empty(rows, dtype=torch.float32, device=x.device) for _ in range(2))
    if rows:
        launch(
            _forward, (rows,), x, hidden, weight, bias, x if seed is None else seed, out, added, mean, scale, width,
            eps, dropout, drops=dropout > 0, block=triton.next_power_of_2(width), num_warps=WARPS,
        )  # fmt: skip
    return out, added, mean, scale


def backward(
    grad: Tensor, added: Tensor, weight: Tensor, seed: Tensor | None, mean: Tensor, scale: Tensor, dropout: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x and hidden, and of x's bias, the norm's weight and its bias [3,w] fp32."""
    rows, width = mean.shape[0], added.shape[-1]
    dx, dhidden = torch.empty_like(added), torch.empty_like(added)
    programs = min(rows, PROGRAMS * _multiprocessors(added.device.index))
    sums = torch.empty(programs, 3, width, dtype=torch.float32, device=added.device)
    if rows:
        launch(
            _backward, (programs,), grad, added, weight, added if seed is None else seed, mean, scale, dx, dhidden,
            sums, rows, width, dropout, drops=dropout > 0, block=triton.next_power_of_2(width), num_warps=WARPS,
        )  # fmt: skip
    return dx, dhidden, sums.sum(0)


def _multiprocessors(device: int) -> int:
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count
