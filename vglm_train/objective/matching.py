"""Image-text matching (ITM, BLIP-2): its loss, and how its hard negatives are sampled.

A negative is sampled with a probability that grows with its similarity: softmax of ITC's logits over the rows of all
ranks that hold another image (`sample_negatives`). `AlignmentObjective._hard_negatives` calls it for both directions.

b rows of this rank, B rows of all ranks.
"""

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from vglm_train.model.launch import builds

GOLDEN = 0x9E3779B97F4A7C15  # splitmix64 (Steele, Lea and Flood 2014)
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
IMAGE_FOR_TEXT, TEXT_FOR_IMAGE = 0, 1  # directions: what is sampled, and for what


def gumbel_noise(seed: int, direction: int, anchors: Tensor, candidates: Tensor) -> Tensor:
    """Gumbel noise that depends on nothing but its arguments. anchors [b], candidates [B] int64 -> [b,B] fp32.

    Anchors and candidates are positions in the stream, so the sample is the same for any number of processes.
    """
    start = _mix(torch.full_like(anchors, _signed(seed * GOLDEN + direction)))
    rows = _mix(start + anchors * _signed(GOLDEN))
    if rows.is_cuda and (kernels := _kernels()) is not None:
        noise: Tensor = kernels.noise(rows, candidates, _signed(GOLDEN))
        return noise
    bits = _shift(_mix(rows[:, None] + candidates * _signed(GOLDEN)), 41)  # the upper 23
    uniform = (bits.float() + 0.5) / (1 << 23)  # exact in fp32: one bit more would round up to 1, and noise to infinity
    return -torch.log(-torch.log(uniform))


def sample_negatives(logits: Tensor, allowed: Tensor, noise: Tensor) -> Tensor:
    """Hard negatives: one column a row, sampled with probability softmax(logits) among the allowed ones (Gumbel-max).

    All [b,B] -> [b] int64. A row with nothing allowed gets column 0, which the caller leaves out.
    """
    return (logits.float() + noise).masked_fill(~allowed, float("-inf")).argmax(1)


def matching_loss(logits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """logits [b,3,2]: a true pair and two false ones a row; rows [b] bool: those with a negative, which
    take part.

    Returns (sum of the cross entropy, number of right answers) over 3 pairs a row.
    """
    labels = torch.zeros(logits.shape[:2], dtype=torch.int64, device=logits.device)
    labels[:, 0] = 1
    losses = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none").view(-1, 3)
    right = (logits.argmax(2) == labels) & rows[:, None]
    return (losses * rows[:, None]).sum(), right.sum().float()


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser on int64, whose products wrap alike on CPU and GPU."""
    for shift, factor in MIX:
        x = (x ^ _shift(x, shift)) * _signed(factor)
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right: torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """The int64 with the lower 64 bits of `value`."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


@builds("hard negatives are sampled slower")
def _kernels() -> ModuleType:
    from vglm_train.objective import matching_triton

    one = torch.ones(1, dtype=torch.int64, device="cuda")
    matching_triton.noise(one, one, _signed(GOLDEN))
    return matching_triton
