"""An image encoder's attention over packed projections: a Triton kernel on a Hopper GPU, torch's own elsewhere.

n pictures, p tokens, c channels of all heads, d of one.
"""

from functools import cache
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from vglm_train.model.launch import builds
from vglm_train.model.vision import fused

HOPPER = 9  # compute capability 9.x, the only cards for which the kernel was written
UNIT, LEAST, MOST = 8, 16, 128  # d is a multiple of the first, no less than the second and no more than the third
ALIGNED = 16  # bytes, as hardware copies tiles


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Scaled dot products of each picture's tokens: queries, keys and values qkv [n,p,3c] -> [n,p,c] contiguous."""
    if fuses(qkv, heads) and (found := kernel()):
        attended: Tensor = found.attend(qkv, heads)
        return attended
    n, p, packed = qkv.shape
    parts = qkv.view(n, p, 3, heads, packed // 3 // heads)
    q, k, v = parts.transpose(1, 3).unbind(2)  # [n,heads,p,d] each, without a copy
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, p, packed // 3)


def fuses(qkv: Tensor, heads: int) -> bool:
    """Whether the kernel computes it, where it can be built."""
    if torch.compiler.is_compiling() or not fused.fuses(qkv) or not qkv.numel():
        return False
    d = qkv.shape[2] // 3 // heads
    stored = qkv.is_contiguous() and qkv.data_ptr() % ALIGNED == 0
    return stored and d % UNIT == 0 and LEAST <= d <= MOST and is_hopper(qkv.device)


@cache
def is_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == HOPPER


@builds("the image encoder runs 3 % slower")
def kernel() -> ModuleType:
    from vglm_train.model.vision import attention_triton

    qkv = torch.zeros(1, 257, 3 * 88, device="cuda", dtype=torch.bfloat16)
    attention_triton.attend(qkv, 1)
    attention_triton.attend(qkv.view(1, 3 * 257, 88).repeat(1, 1, 3), 1)  # more tokens than a program can keep
    return attention_triton
