"""Products with integer weights as Triton kernels. Imported only for tensors on a GPU.

Decoding waits for weights to be read. So a program reads the codes of some outputs once, turns them into numbers in
registers and multiplies them by all rows: one row with plain arithmetic, more on tensor cores, where whole numbers are
exact in fp16 and bf16. Sums and scales are fp32. Nothing depends on which program is done first.

r rows, i inputs, n blocks of 128 inputs, o outputs.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from vglm_train.model.launch import launch

BLOCK = 128
LEAST, MOST = 16, 64  # rows of a product on tensor cores


class Launch(NamedTuple):
    """How the work is cut."""

    outputs: int  # of a program
    blocks: int  # of 128 inputs, that are read at once
    warps: int
    stages: int  # reads that are on their way
    parts: int = 1  # the inputs are cut into, for programs that run at once; of several rows only


@triton.jit
def _one_row(
    x, codes, scales, bias, out, inputs, outputs, blocks,
    bits: tl.constexpr, has_bias: tl.constexpr, even: tl.constexpr,
    size_o: tl.constexpr, size_b: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    """out [o] = x [i] W' + bias, for `size_o` outputs a program."""
    width: tl.constexpr = 128 if bits == 8 else 64
    o = tl.program_id(0) * size_o + tl.arange(0, size_o)
    b, k = tl.arange(0, size_b), tl.arange(0, width)
    in_o = o < outputs
    weights = codes + b[:, None, None] * (outputs * width) + o[None, :, None] * width + k[None, None, :]
    left = x + b[:, None] * 128 + k[None, :]
    total = tl.zeros((size_b, size_o, width), tl.float32)
    for first in tl.range(0, blocks, size_b, num_stages=stages):
        in_b = first + b < blocks
        packed = tl.load(weights, mask=in_b[:, None, None] & in_o[None, :, None], other=0)
        weights += size_b * outputs * width
        for half in tl.static_range(8 // bits):
            start = (first + b) * 128 + half * 64
            inside = (in_b[:, None] & (k >= 0)[None, :]) if even else start[:, None] + k[None, :] < inputs
            part = tl.load(left + half * 64, mask=inside, other=0.0).to(tl.float32)[:, None, :]
            if bits == 8:
                total += packed.to(tl.float32) * part
            else:
                places = scales + (2 * (first + b) + half)[:, None] * outputs + o[None, :]
                scale = tl.load(places, mask=in_b[:, None] & in_o[None, :], other=0.0).to(tl.float32)
                total += (((packed >> (4 * half)) & 15).to(tl.float32) - 8.0) * part * scale[:, :, None]
        left += size_b * 128
    result = tl.sum(tl.sum(total, 2), 0)
    if bits == 8:
        result *= tl.load(scales + o, mask=in_o, other=0.0)
    if has_bias:
        result += tl.load(bias + o, mask=in_o, other=0.0).to(tl.float32)
    tl.store(out + o, result.to(out.dtype.element_ty), mask=in_o)


@triton.jit
def _few_rows(
    x, codes, scales, bias, out, rows, inputs, outputs, blocks,
    bits: tl.constexpr, has_bias: tl.constexpr, even: tl.constexpr,
    size_o: tl.constexpr, size_b: tl.constexpr, size_r: tl.constexpr, stages: tl.constexpr, parts: tl.constexpr,
):  # fmt: skip
    """out [parts,r,o], of which the sum is x [r,i] W' + bias, for `size_o` outputs and `size_r` rows a program."""
    width: tl.constexpr = 128 if bits == 8 else 64
    o = tl.program_id(0) * size_o + tl.arange(0, size_o)
    r = tl.program_id(1) * size_r + tl.arange(0, size_r)
    k = tl.arange(0, width)
    in_o, in_r = o < outputs, r < rows
    begin = tl.cdiv(blocks, parts) * tl.program_id(2)
    end = tl.minimum(begin + tl.cdiv(blocks, parts), blocks)
    weights = codes + begin * outputs * width + o[:, None] * width + k[None, :]
    left = x + r[None, :] * inputs + begin * 128 + k[:, None]
    total = tl.zeros((size_o, size_r), tl.float32)
    for first in tl.range(begin, end, size_b, num_stages=stages):
        for step in tl.static_range(size_b):
            block = first + step
            in_b = block < end
            packed = tl.load(weights + step * outputs * width, mask=in_o[:, None] & in_b, other=0)
            for half in tl.static_range(8 // bits):
                start = block * 128 + half * 64
                inside = in_r[None, :] & (in_b if even else (start + k < inputs)[:, None])
                part = tl.load(left + step * 128 + half * 64, mask=inside, other=0.0)
                if bits == 8:
                    total = tl.dot(packed.to(part.dtype), part, total)
                else:
                    scale = tl.load(scales + (2 * block + half) * outputs + o, mask=in_o & in_b, other=0.0)
                    number = _whole((packed >> (4 * half)) & 15, part.dtype)
                    total += tl.dot(number, part) * scale.to(tl.float32)[:, None]
        weights += size_b * outputs * width
        left += size_b * 128
    if bits == 8:
        total *= tl.load(scales + o, mask=in_o, other=0.0)[:, None]
    if has_bias:
        total += tl.load(bias + o, mask=in_o & (begin == 0), other=0.0).to(tl.float32)[:, None]
    where = out + tl.program_id(2) * rows * outputs + r[None, :] * outputs + o[:, None]
    tl.store(where, total.to(out.dtype.element_ty), mask=in_o[:, None] & in_r[None, :])


@triton.jit
def _whole(code, dtype: tl.constexpr):
    """0 to 15 -> -8 to 7: as the lowest bits of a number whose last bit counts 1, less that number and 8.

    Exact, and faster than a conversion.
    """
    if dtype == tl.float16:
        number = (code.to(tl.int16) | 0x6400).to(tl.float16, bitcast=True) - 1032.0
    else:
        number = (code.to(tl.int16) | 0x4300).to(tl.bfloat16, bitcast=True) - 136.0
    return number


@triton.jit
def _all(codes, scales, out, outputs, blocks, bits: tl.constexpr, size_o: tl.constexpr):
    """Write the weights of one block of `size_o` outputs to out [o,128n]."""
    width: tl.constexpr = 128 if bits == 8 else 64
    o = tl.program_id(0) * size_o + tl.arange(0, size_o)
    block, k = tl.program_id(1), tl.arange(0, width)
    in_o = o < outputs
    inside = in_o[:, None] & (k >= 0)[None, :]
    packed = tl.load(codes + (block * outputs + o)[:, None] * width + k[None, :], mask=inside, other=0)
    where = out + o.to(tl.int64)[:, None] * (blocks * 128) + block * 128 + k[None, :]
    for half in tl.static_range(8 // bits):
        if bits == 8:
            number, places = packed.to(tl.float32), scales + o
        else:
            number = ((packed >> (4 * half)) & 15).to(tl.float32) - 8.0
            places = scales + (2 * block + half) * outputs + o
        number *= tl.load(places, mask=in_o, other=0.0).to(tl.float32)[:, None]
        tl.store(where + half * 64, number.to(out.dtype.element_ty), mask=inside)


def launch_of(bits: int, rows: int, outputs: int) -> Launch:
    """The fastest on an H100 with ChatGLM-6B's layers."""
    many = outputs > 8192  # programs, without further cuts
    if rows == 1:
        return Launch(8, 8, 1, 3) if bits == 4 else Launch(8, 2, 2, 3) if many else Launch(8, 4, 4, 3)
    parts = 1 if many else 4
    if bits == 4:
        return Launch(32, 4, 2, 2, parts) if rows <= LEAST else Launch(64, 2, 4, 4, parts)
    return Launch(32, 2, 2, 4, parts) if rows <= LEAST else Launch(64, 1, 4, 4, parts)


def product(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, chosen: Launch | None = None) -> Tensor:
    """x [r,i] fp16 or bf16, codes and scales as `Int8Linear` or `Int4Linear` hold them, bias [o] -> [r,o]."""
    (rows, inputs), (blocks, outputs, width) = x.shape, codes.shape
    bits = 8 * width // BLOCK
    size_o, size_b, warps, stages, parts = chosen or launch_of(bits, rows, outputs)
    shape, dtype = ((rows, outputs), x.dtype) if parts == 1 else ((parts, rows, outputs), torch.float32)
    out = torch.empty(shape, dtype=dtype, device=x.device)
    tensors = x.contiguous(), codes, scales, x if bias is None else bias, out
    how = {"bits": bits, "has_bias": bias is not None, "even": inputs % BLOCK == 0, "stages": stages}
    how |= {"size_o": size_o, "size_b": size_b, "num_warps": warps}
    if rows == 1:
        assert parts == 1
        launch(_one_row, (triton.cdiv(outputs, size_o),), *tensors, inputs, outputs, blocks, **how)
    else:
        size_r = max(LEAST, min(MOST, triton.next_power_of_2(rows)))
        grid = (triton.cdiv(outputs, size_o), triton.cdiv(rows, size_r), parts)
        launch(_few_rows, grid, *tensors, rows, inputs, outputs, blocks, size_r=size_r, parts=parts, **how)
    return out if parts == 1 else out.sum(0).to(x.dtype)


def dequantize(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights [o,128n] in `dtype`."""
    blocks, outputs, width = codes.shape
    out = torch.empty(outputs, blocks * BLOCK, dtype=dtype, device=codes.device)
    grid = (triton.cdiv(outputs, 32), blocks)
    launch(_all, grid, codes, scales, out, outputs, blocks, bits=8 * width // BLOCK, size_o=32, num_warps=4)
    return out
