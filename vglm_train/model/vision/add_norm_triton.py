"""A residual sum and the layer norm behind it as one Triton kernel. Imported only for tensors on a GPU."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from vglm_train.model.launch import launch

WARPS = 8  # for rows of 1408: 4 took 1 % longer for the whole encoder on an H100


@triton.jit
def _rows(x, added, weight, bias, total, normed, width, eps, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width
    channel = tl.arange(0, block)
    inside = channel < width
    value = tl.load(x + row + channel, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(added + row + channel, mask=inside, other=0.0).to(tl.float32)
    kept = value.to(total.dtype.element_ty)  # what the plain sum rounds to: the norm is of that
    tl.store(total + row + channel, kept, mask=inside)
    value = kept.to(tl.float32)
    mean = tl.sum(value, 0) / width
    centred = tl.where(inside, value - mean, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 0) / width + eps)
    gain = tl.load(weight + channel, mask=inside).to(tl.float32)
    shift = tl.load(bias + channel, mask=inside).to(tl.float32)
    tl.store(normed + row + channel, (centred * scale * gain + shift).to(normed.dtype.element_ty), mask=inside)


@triton.jit
def _rows_with_bias(x, added, weight, bias, normed, width, eps, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width
    channel = tl.arange(0, block)
    inside = channel < width
    value = tl.load(x + row + channel, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(added + channel, mask=inside, other=0.0)
    mean = tl.sum(value, 0) / width
    centred = tl.where(inside, value - mean, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 0) / width + eps)
    gain = tl.load(weight + channel, mask=inside).to(tl.float32)
    shift = tl.load(bias + channel, mask=inside).to(tl.float32)
    tl.store(normed + row + channel, (centred * scale * gain + shift).to(normed.dtype.element_ty), mask=inside)


def add_norm(x: Tensor, added: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x, added [..., c] contiguous -> their sum, and its layer norm with fp32 statistics. No gradient."""
    assert x.is_contiguous()
    assert added.is_contiguous()
    total, normed, width = torch.empty_like(x), torch.empty_like(x), x.shape[-1]
    grid, block = (x.numel() // width,), triton.next_power_of_2(width)
    launch(_rows, grid, x, added, weight, bias, total, normed, width, eps, block=block, num_warps=WARPS)
    return total, normed


def norm_with_bias(x: Tensor, added: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """x [r,c] contiguous and added [c] fp32 -> the layer norm of their sum, in fp32 until it is stored. No gradient."""
    assert x.is_contiguous()
    normed, (rows, width) = torch.empty_like(x), x.shape
    block = triton.next_power_of_2(width)
    launch(_rows_with_bias, (rows,), x, added, weight, bias, normed, width, eps, block=block, num_warps=4)
    return normed
