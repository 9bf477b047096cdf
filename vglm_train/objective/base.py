"""The contract of an objective: a module that owns a model and turns a batch into losses. The engine wraps it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class LossOutput:
    """Sums, not means: the engine divides by the units counted over the whole global batch.

    Tensors are of shape [] on the device, sums in fp32. Making them has not waited for the device.
    """

    sums: dict[str, Tensor]  # loss name -> sum over this rank's units, with gradient
    measures: dict[str, tuple[Tensor, Tensor | int]]  # name -> (sum, count), without gradient
    padded_tokens: dict[str, int] = field(default_factory=dict)  # kind -> tokens computed, padding included; see Cost


class Objective(nn.Module):
    """A model and its losses; it has no weights of its own."""

    model: nn.Module
    weights: dict[str, float]  # loss name -> weight in the total
    token_loss: str  # the loss whose units are text tokens

    def prepare(self, batches: Sequence[Any]) -> None:
        """Called once a step, before `units` and `forward`, with all of this rank's micro-batches.

        Their forwards follow in order. May use collectives. Nothing to do for an objective whose losses are of one
        micro-batch each.
        """

    def units(self, batch: Any) -> dict[str, Tensor]:
        """Loss name -> number of this rank's units in the batch, fp32 []. May use collectives: call it on all ranks."""
        raise NotImplementedError

    def forward(self, batch: Any) -> LossOutput:
        raise NotImplementedError

    def watched(self) -> dict[str, Tensor]:
        """Values of the model to be logged as they are, name -> []."""
        return {}


def dropout_seed(seed: int, first_row: int) -> int:
    """Dropout is a function of the run's seed and of the stream row at which it begins."""
    digest = hashlib.blake2b(f"{seed} {first_row}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def seed_dropout(seed: int, first_row: int, device: torch.device) -> None:
    """Let dropout draw by `dropout_seed`, on the CPU and on an NVIDIA GPU.

    `torch.manual_seed` does the same, and notes for devices that are not there where it was called: a millisecond.
    """
    number = dropout_seed(seed, first_row)
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
