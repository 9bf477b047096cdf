"""Random numbers of kernels with dropout. Imported only for tensors on a GPU."""

import triton
import triton.language as tl


@triton.jit
def kept(seed, offset, dropout):
    """Whether dropout keeps a value: a hash of its position and the two halves of the seed, uniform in 32 bits."""
    low, high = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    x = offset.to(tl.uint32) ^ low
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = x ^ (x >> 15) ^ high
    x = x * 0x846CA68B
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    return x.to(tl.float32) * 2.3283064e-10 >= dropout
