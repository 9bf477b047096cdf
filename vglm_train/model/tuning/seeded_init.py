"""Initial weights as a function of seed and name, so that order and device make no difference."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def seeded_random(shape: Sequence[int], seed: int, name: str, normal: bool = False) -> Tensor:
    """fp32 on the CPU: uniform in [0,1), or standard normal."""
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest) >> 1)
    draw = torch.randn if normal else torch.rand
    return draw(*shape, generator=generator, device="cpu")
