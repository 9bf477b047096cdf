"""A decoder of ChatGLM whose rows live in `Slots`."""

from collections.abc import Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from vglm_train.model.language.cache import KeyValueCache
from vglm_train.model.language.glm.slots import Glm, Slots

COLUMNS = 256  # memory grows by so many


class CachedDecoder(Protocol):
    """What is needed of `chatglm.CachedDecoder`."""

    context: Tensor
    length: Tensor
    cache: KeyValueCache

    @classmethod
    def of(
        cls, model: Any, context: Tensor, length: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> Self: ...

    def start(self) -> Tensor: ...

    def step(self, ids: Tensor) -> Tensor: ...

    def select(self, rows: Tensor) -> None: ...

    def join(self, other: Any) -> None: ...


class SlotDecoder:
    """Continues rows of prompts: see `decoding.Decoder`. Prompts are read by a `CachedDecoder`, which it is until the
    first step, and again where a row is wanted twice, as beam search does.
    """

    joins = True

    def __init__(self, model: Glm, eager: CachedDecoder) -> None:
        self.model = model
        self.eager: CachedDecoder | None = eager
        self._of = type(eager).of
        self.slots: Slots | None = None
        self.rows: list[int] = []  # the slot of each row
        self.length: list[int] = []  # of each row: tokens in the cache
        self.column = 0  # of the next token
        self.repeats = False  # a row was wanted twice
        self._where: Tensor | None = None  # `rows`, on the device

    def start(self) -> Tensor:
        """Logits [b,v] of the first new ids."""
        assert self.eager is not None
        return self.eager.start()

    def step(self, ids: Tensor) -> Tensor:
        """ids [r] just chosen -> logits [r,v] of the next ones."""
        if self.eager is not None and not (self.repeats or self.model.prefix):
            self._enter(self.eager)
        if self.slots is None:
            assert self.eager is not None
            return self.eager.step(ids)
        self._make_room(self.slots)
        self.column += 1
        self.length = [length + 1 for length in self.length]
        if self._where is None:
            self._where = torch.tensor(self.rows, device=ids.device)
        return self.slots.step(ids, self._where)

    def select(self, rows: Tensor) -> None:
        """Keep the rows numbered `rows` [r] int64, repeats allowed."""
        kept = rows.tolist()
        self.repeats |= len(set(kept)) < len(kept)
        if self.slots is not None and self.repeats:
            self._leave(self.slots)
        if self.slots is None:
            assert self.eager is not None
            self.eager.select(rows)
            return
        gone = [slot for number, slot in enumerate(self.rows) if number not in set(kept)]
        if gone:
            self.slots.free(gone)
        self._where = None
        self.rows, self.length = [self.rows[row] for row in kept], [self.length[row] for row in kept]

    def join(self, other: Self) -> None:
        """Put the rows of another decoder of this model behind these."""
        if other.slots is not None:
            other._leave(other.slots)
        assert other.eager is not None
        if self.slots is None:
            assert self.eager is not None
            self.eager.join(other.eager)
        else:
            self._add(other.eager)

    def _enter(self, eager: CachedDecoder) -> None:
        """From the cache of prompts to slots."""
        self.column = eager.cache.columns
        self.slots = self.model.slots.take(_power_of_two(len(eager.length)), _rounded(self.column + 1))
        self.slots.column.fill_(self.column)
        self.eager = None
        self._add(eager)

    def _add(self, eager: CachedDecoder) -> None:
        lengths = eager.length.tolist()
        self._fit(len(self.rows) + len(lengths), max(lengths))
        assert self.slots is not None
        self._where = None
        free = sorted(set(range(self.slots.size)) - set(self.rows))
        for row, (length, context, slot) in enumerate(zip(lengths, eager.context.tolist(), free)):
            views = [block.views for block in eager.cache.blocks]
            keys, values = ([pair[part][row, :, -length:] for pair in views] for part in (0, 1))
            self.slots.fill(slot, keys, values, context, self.column)
            self.rows.append(slot)
            self.length.append(length)

    def _fit(self, rows: int, longest: int) -> None:
        """Make room for that many rows, of which the longest new one has so many tokens."""
        assert self.slots is not None
        size = max(self.slots.size, _power_of_two(rows))
        self._move(size, max(self.column, longest))

    def _make_room(self, slots: Slots) -> None:
        """For one more token: columns that no row uses any more are dropped, if that is a quarter or more."""
        if self.column < slots.columns:
            return
        used = max(self.length)
        self._move(slots.size, used if used <= slots.columns * 3 // 4 else self.column)

    def _move(self, size: int, column: int) -> None:
        """Let the rows end before `column`, in memory for `size` of them."""
        old, columns = self.slots, _rounded(column + 1)
        assert old is not None
        shift = column - self.column
        if size == old.size and columns <= old.columns and not shift:
            return
        new = self.model.slots.take(size, max(columns, old.columns) if shift >= 0 else columns)
        for row, length in zip(self.rows, self.length):
            start, end = self.column - length, self.column
            keys, values = ([block[row, :, start:end] for block in part] for part in (old.keys, old.values))
            new.fill(row, keys, values, int(old.context[row]), column)
        self.model.slots.give_back(old)
        new.column.fill_(column)
        self.slots, self.column = new, column

    def _leave(self, slots: Slots) -> None:
        """Back to a cache whose rows can be repeated."""
        longest = max(self.length)
        start = self.column - longest
        keys, values = (
            [block[self.rows, :, start : self.column] for block in part] for part in (slots.keys, slots.values)
        )
        length = torch.tensor(self.length, device=keys[0].device)
        self.eager = self._of(self.model, slots.context[self.rows], length, keys, values)
        self.model.slots.give_back(slots)
        self.slots = None

    def __del__(self) -> None:
        if self.slots is not None:
            self.model.slots.give_back(self.slots)


def _power_of_two(rows: int) -> int:
    return 1 << (rows - 1).bit_length()


def _rounded(columns: int) -> int:
    return columns + -columns % COLUMNS
