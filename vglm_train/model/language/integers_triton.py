"""Products of few rows with integer weights as Triton kernels. Imported only for tensors on a GPU.

Decoding waits for weights to be read. So a program reads the codes of some outputs once, turns them into numbers in
registers and multiplies them by all rows on tensor cores. Whole numbers are exact in fp16 and bf16; sums and scales are
fp32. Nothing depends on which program is done first.

r rows, i inputs, n blocks of 128 inputs, o outputs.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128
LEAST = 16  # rows of a tensor core's product


class Launch(NamedTuple):
    """How the work is cut."""

    outputs: int  # of a program
    warps: int
    stages: int  # blocks of weights that are on their way


@triton.jit
def _few_rows(
    x, codes, scales, bias, out, rows, inputs, outputs, blocks,
    bits: tl.constexpr, has_bias: tl.constexpr, even: tl.constexpr,
    size_o: tl.constexpr, size_r: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    """out [r,o] = x [r,i] W' + bias, for `size_o` outputs and `size_r` rows a program."""
    o = tl.program_id(0) * size_o + tl.arange(0, size_o)
    r = tl.program_id(1) * size_r + tl.arange(0, size_r)
    in_o, in_r = o < outputs, r < rows
    width: tl.constexpr = 128 if bits == 8 else 64
    k = tl.arange(0, width)
    weights = codes + o[:, None] * width + k[None, :]
    left = x + r[None, :] * inputs + k[:, None]
    total = tl.zeros((size_o, size_r), tl.float32)
    for block in tl.range(0, blocks, num_stages=stages):
        packed = tl.load(weights, mask=in_o[:, None], other=0)
        weights += outputs * width
        if bits == 8:
            inside = in_r[None, :] if even else in_r[None, :] & (block * 128 + k < inputs)[:, None]
            part = tl.load(left, mask=inside, other=0.0)
            total = tl.dot(packed.to(part.dtype), part, total)
        else:
            for half in tl.static_range(2):
                start = block * 128 + half * 64
                inside = in_r[None, :] if even else in_r[None, :] & (start + k < inputs)[:, None]
                part = tl.load(left + half * 64, mask=inside, other=0.0)
                scale = tl.load(scales + (2 * block + half) * outputs + o, mask=in_o, other=0.0).to(tl.float32)
                total += tl.dot(_whole((packed >> (4 * half)) & 15, part.dtype), part) * scale[:, None]
        left += 128
    if bits == 8:
        total *= tl.load(scales + o, mask=in_o, other=0.0)[:, None]
    if has_bias:
        total += tl.load(bias + o, mask=in_o, other=0.0).to(tl.float32)[:, None]
    where = out + r[None, :] * outputs + o[:, None]
    tl.store(where, total.to(out.dtype.element_ty), mask=in_o[:, None] & in_r[None, :])


@triton.jit
def _whole(code, dtype: tl.constexpr):
    """0 to 15 -> -8 to 7: as the lowest bits of a number whose last bit counts 1, less that number and 8.

    Exact, and faster than a conversion.
    """
    if dtype == tl.float16:
        return (code.to(tl.int16) | 0x6400).to(tl.float16, bitcast=True) - 1032.0
    return (code.to(tl.int16) | 0x4300).to(tl.bfloat16, bitcast=True) - 136.0


def launch_of(bits: int, rows: int, outputs: int) -> Launch:
    """Measured on an H100 with ChatGLM-6B's layers."""
    return Launch(64 if outputs > 8192 else 32, 4, 4)


def product(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, launch: Launch | None = None) -> Tensor:
    """x [r,i] fp16 or bf16, codes and scales as `Int8Linear` or `Int4Linear` hold them, bias [o] -> [r,o]."""
    (rows, inputs), (blocks, outputs, width) = x.shape, codes.shape
    bits = 8 * width // BLOCK
    size_o, warps, stages = launch or launch_of(bits, rows, outputs)
    size_r = max(LEAST, min(64, triton.next_power_of_2(rows)))
    out = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(x):
        _few_rows[(triton.cdiv(outputs, size_o), triton.cdiv(rows, size_r))](
            x.contiguous(), codes, scales, x if bias is None else bias, out, rows, inputs, outputs, blocks,
            bits=bits, has_bias=bias is not None, even=inputs % BLOCK == 0,
            size_o=size_o, size_r=size_r, stages=stages, num_warps=warps,
        )  # fmt: skip
    return out
