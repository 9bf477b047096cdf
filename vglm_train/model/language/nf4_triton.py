"""NF4 weights back in 16 bits, as a Triton kernel. Imported only for tensors on a GPU.

It reads half a byte and writes two for each weight, so the card's memory sets its time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from vglm_train.model.launch import launch

BYTES, WARPS = 2048, 4  # of codes that a program reads


@triton.jit
def _all(codes, scales, pairs, out, count, block: tl.constexpr, size: tl.constexpr):
    """`size` of `count` bytes of codes, two weights each, the first in the upper half."""
    byte = tl.program_id(0).to(tl.int64) * size + tl.arange(0, size)
    inside = byte < count
    code = tl.load(codes + byte, mask=inside, other=0).to(tl.int32)
    scale = tl.load(scales + byte * 2 // block, mask=inside, other=0.0).to(pairs.dtype.element_ty).to(tl.float32)
    first = tl.load(pairs + 2 * (code >> 4) + 1).to(tl.float32) * scale  # pair i below 16 ends with level i
    second = tl.load(pairs + 2 * (code & 15) + 1).to(tl.float32) * scale
    weight = tl.interleave(first.to(out.dtype.element_ty), second.to(out.dtype.element_ty))
    number = tl.program_id(0).to(tl.int64) * (2 * size) + tl.arange(0, 2 * size)
    tl.store(out + number, weight, mask=number < 2 * count)


def dequantize(codes: Tensor, scales: Tensor, pairs: Tensor, block: int) -> Tensor:
    """Codes [n/2], scales [n/block] and the two numbers of each byte [512] -> weights [n] in the dtype of `pairs`."""
    out = torch.empty(2 * codes.numel(), dtype=pairs.dtype, device=codes.device)
    count = codes.numel()
    inputs, grid = (codes, scales, pairs, out), (triton.cdiv(count, BYTES),)
    launch(_all, grid, *inputs, count, block=block, size=BYTES, num_warps=WARPS)
    return out
