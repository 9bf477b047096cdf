"""Fresh weights as a function of their name, so that neither the order nor the device they are made on has a say."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def seeded_random(shape: Sequence[int], seed: int, name: str, normal: bool = False) -> Tensor:
    """fp32 numbers from [0,1), or of a normal distribution, on the CPU."""
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest) >> 1)
    draw = torch.randn if normal else torch.rand
    return draw(*shape, generator=generator, device="cpu")
