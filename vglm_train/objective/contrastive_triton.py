"""What ITC over very many pairs computes between its products, as a Triton kernel. Imported only for tensors on a GPU.

The plain code reads a tile's cosines, zeroes them and scatters into them, with a dozen steps over the pairs in between.
This reads and writes them once.

r images and c texts of a tile, q queries.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from vglm_train.model.launch import launch

BLOCK = 1024  # pairs that a program looks at together


@triton.jit
def _gradient_of_cosines(
    cosines, row_ids, text_ids, row_valid, text_valid, row_mass, text_mass, row_share, text_share, even, temperature,
    sums, c, q: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    text = tl.program_id(1) * block + tl.arange(0, block)
    inside = text < c
    cosines += row * q * c + text
    best = tl.full([block], float("-inf"), tl.float32)
    chosen = tl.zeros([block], tl.int32)
    for query in range(q):
        x = tl.load(cosines + query * c, mask=inside, other=0.0)
        chosen = tl.where(x > best, query, chosen)
        best = tl.maximum(best, x, propagate_nan=tl.PropagateNan.ALL)  # what is no number stays to be seen
    scale = tl.load(temperature)
    logits = tl.div_rn(best, scale)  # as `scan` divides: what it summed up must be the same numbers
    softmax = tl.exp(logits - tl.load(row_mass + row))
    softmax += tl.exp(logits - tl.load(text_mass + text, mask=inside, other=0.0))
    both = tl.load(row_share + row) + tl.load(text_share + text, mask=inside, other=0.0)
    same = tl.load(row_ids + row) == tl.load(text_ids + text, mask=inside, other=0)
    target = tl.where(same, both, 0.0) + tl.load(even)
    valid = (tl.load(row_valid + row) != 0) & (tl.load(text_valid + text, mask=inside, other=0) != 0)
    grad = tl.where(valid, softmax - target, 0.0) / (2 * scale)
    total = tl.sum(tl.where(inside, grad * logits, 0.0).to(tl.float64), 0)
    tl.store(sums + row * tl.num_programs(1) + tl.program_id(1), total)
    for query in range(q):
        tl.store(cosines + query * c, tl.where(chosen == query, grad, 0.0), mask=inside)


def gradient_of_cosines(
    cosines: Tensor, ids: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor], mass: tuple[Tensor, Tensor],
    share: tuple[Tensor, Tensor], even: Tensor, temperature: Tensor,
) -> Tensor:  # fmt: skip
    """Puts in place of cosines [r,q,c] their gradients: 0 but for each pair's best query.

    ids int64, valid bool, mass, share: of the images [r] and of the texts [c]; even [], temperature [1]: see
    `contrastive_tiles._by_cosines`. Returns the sum of gradient times logit [] float64.
    """
    r, q, c = cosines.shape
    grid = (r, triton.cdiv(c, BLOCK))
    sums = torch.zeros(grid, dtype=torch.float64, device=cosines.device)
    pairs = (*ids, *(x.to(torch.uint8) for x in valid), *mass, *share)
    inputs = (cosines, *(x.contiguous() for x in pairs), even, temperature, sums)
    launch(_gradient_of_cosines, grid, *inputs, c, q=q, block=BLOCK, num_warps=4)
    return sums.sum()
