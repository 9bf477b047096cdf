"""An image encoder's attention over packed projections: a Triton kernel on a Hopper GPU, torch's own elsewhere.

n pictures, p tokens, c channels of all heads, d of one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vglm_train.model.vision import fused

UNIT, LEAST, MOST = 8, 16, 128  # d is a multiple of the first, no less than the second and no more than the third
ALIGNED = 16  # bytes, as hardware copies tiles


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Scaled dot products of each picture's tokens: queries, keys and values qkv [n,p,3c] -> [n,p,c] contiguous."""
    if fuses(qkv, heads) and (found := fused.kernels()):
        attended: Tensor = found.attention.attend(qkv, heads)
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
    return stored and d % UNIT == 0 and LEAST <= d <= MOST and fused.is_hopper(qkv.device)
