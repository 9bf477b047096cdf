"""What the Q-Former's kernels keep under dropout, computed again."""

import torch
from torch import Tensor


def kept(seed: int, shape: tuple[int, ...], rate: float) -> Tensor:
    """`random_triton.kept` of every position of a tensor, with torch's 64 bits in place of its 32."""
    mask = 2**32 - 1
    x = torch.arange(torch.Size(shape).numel()).view(shape) ^ (seed & mask)
    x = (x ^ (x >> 16)) * 0x7FEB352D & mask
    x = x ^ (x >> 15) ^ (seed >> 32)
    x = x * 0x846CA68B & mask
    x = (x ^ (x >> 16)) * 0x7FEB352D & mask
    x = x ^ (x >> 15)
    return x.float() * 2.3283064e-10 >= rate
