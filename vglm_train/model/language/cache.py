"""Keys and values of a text that is being written.

r rows (beams included), h heads, s new places, t all places so far, d width of a head.
"""

import torch
from torch import Tensor


class KeyValueCache:
    """Room for all of an answer at once, so that a step copies only what is new; one entry a block."""

    def __init__(self, blocks: int, room: int) -> None:
        self.length, self.room = 0, room
        self._held: list[tuple[Tensor, Tensor] | None] = [None] * blocks

    def append(self, block: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """[r,h,s,d] behind what block number `block` holds -> everything so far [r,h,t,d].

        `length` counts the places of finished steps: call `advance` when every block has appended.
        """
        end = self.length + key.shape[2]
        assert end <= self.room, f"{end} places in a cache of {self.room}"
        held = self._held[block]
        if held is None:
            held = self._held[block] = self._room(key), self._room(value)
        for room, new in zip(held, (key, value), strict=True):
            room[:, :, self.length : end] = new
        return held[0][:, :, :end], held[1][:, :, :end]

    def advance(self, places: int) -> None:
        self.length += places

    def select(self, rows: Tensor) -> None:
        """The rows become `rows` [r'] int64 of those held, repeats allowed."""
        self._held = [None if held is None else (held[0][rows], held[1][rows]) for held in self._held]

    def _room(self, like: Tensor) -> Tensor:
        r, h, _, d = like.shape
        return torch.empty(r, h, self.room, d, dtype=like.dtype, device=like.device)
