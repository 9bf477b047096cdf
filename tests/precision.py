"""How far apart two computations of the same number may be, on any processor.

A processor decides in which order the terms of a sum are added, and fp32 rounds each partial sum at 2^-24 of its size.
So two computations differ by a small multiple of 2^-24 of the TERMS, however small their sum is. Where terms cancel,
a tolerance relative to the sum says nothing. The temperature's gradient in one test is -0.0016, of terms of 51 in all.
The gradient of a key's bias is zero but for rounding. There are two ways out:

- `in_float64`: compute both sides in float64. Rounding is 2^-29 times smaller, and no mistake hides below `EXACT`.
- `rounding` and `like`: measure the tolerance by the terms, or by the largest of many sums of such terms, where one
  side is fixed in fp32: a number that somebody else computed, DeepSpeed, transformers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn

EPS = torch.finfo(torch.float32).eps / 2  # what fp32 rounds a sum by, relative: 2^-24
EXACT = {"rtol": 1e-9, "atol": 1e-10}  # for float64, through a small network and back: 1e-13 of the terms was measured


@contextmanager
def in_float64(module: nn.Module) -> Iterator[None]:
    """Compute with `module` in float64: its weights stay so, and what the program brings to fp32 goes there as well."""
    for part in module.double().modules():
        if isinstance(part.__dict__.get("dtype"), torch.dtype):  # a frozen tower brings its input to its own dtype
            part.dtype = torch.float64
    with patch.object(Tensor, "float", Tensor.double):
        yield


def like(wanted: Tensor, times: float = 512) -> dict[str, float]:
    """Tolerances for logits or gradients that went through a network in fp32 in two ways: 3e-5 of the LARGEST.

    Each element is a sum of terms about as large as the largest element; a small one is what they leave.
    """
    return {"rtol": 0.0, "atol": times * EPS * float(wanted.abs().max())}


def rounding(terms: Tensor, times: float = 32) -> float:
    """What a sum of these terms in fp32 may differ by from the same sum in another order.

    `times`: the terms were rounded on their way too, a few times each.
    """
    return times * EPS * float(terms.double().abs().sum())
