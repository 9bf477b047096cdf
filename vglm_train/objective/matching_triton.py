"""The noise by which ITM's hard negatives are sampled, as a Triton kernel. Imported only for tensors on a GPU.

r rows, c candidates.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from vglm_train.model.launch import launch

BLOCK = 1024  # candidates that a program looks at together


@triton.jit
def _noise(rows, candidates, out, count, golden, block: tl.constexpr):
    """splitmix64 of row + candidate * golden, and Gumbel noise of its upper 23 bits."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * block + tl.arange(0, block)
    inside = place < count
    x = tl.load(rows + row) + tl.load(candidates + place, mask=inside, other=0) * golden
    x = x.to(tl.uint64, bitcast=True)
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    x = (x ^ (x >> 31)) >> 41
    uniform = (x.to(tl.int32).to(tl.float32) + 0.5) * (1.0 / 8388608)
    # tl.log would be approximate: near 1 it could give 0, whose logarithm is infinite
    tl.store(out + row * count + place, -libdevice.log(-libdevice.log(uniform)), mask=inside)


def noise(rows: Tensor, candidates: Tensor, golden: int) -> Tensor:
    """Rows' states [r] and candidates [c] int64 -> Gumbel noise [r,c] fp32; a candidate is multiplied by `golden`."""
    r, c = len(rows), len(candidates)
    out = torch.empty(r, c, dtype=torch.float32, device=rows.device)
    if out.numel():
        grid = (r, triton.cdiv(c, BLOCK))
        launch(_noise, grid, rows.contiguous(), candidates.contiguous(), out, c, golden, block=BLOCK, num_warps=4)
    return out
