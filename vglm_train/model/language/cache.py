"""The key-value cache of generation.

r rows (beams included), h heads, s new tokens, t all tokens so far, d width of a head.
"""

import torch
from torch import Tensor


class KeyValueCache:
    """Memory for prompt and answer is allocated at once, so that a step copies only what is new; one entry a block."""

    def __init__(self, blocks: int, max_length: int) -> None:
        self.length, self.max_length = 0, max_length
        self._held: list[tuple[Tensor, Tensor] | None] = [None] * blocks

    def append(self, block: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append [r,h,s,d] to what block number `block` holds -> everything so far [r,h,t,d].

        `length` counts the tokens of finished steps: call `advance` when every block has appended.
        """
        end = self.length + key.shape[2]
        assert end <= self.max_length, f"{end} tokens in a cache of {self.max_length}"
        held = self._held[block]
        if held is None:
            held = self._held[block] = self._allocate(key), self._allocate(value)
        for buffer, new in zip(held, (key, value), strict=True):
            buffer[:, :, self.length : end] = new
        return held[0][:, :, :end], held[1][:, :, :end]

    def advance(self, tokens: int) -> None:
        self.length += tokens

    def select(self, rows: Tensor) -> None:
        """Keep the rows numbered `rows` [r'] int64, repeats allowed."""
        self._held = [None if held is None else (held[0][rows], held[1][rows]) for held in self._held]

    def _allocate(self, like: Tensor) -> Tensor:
        r, h, _, d = like.shape
        return torch.empty(r, h, self.max_length, d, dtype=like.dtype, device=like.device)
