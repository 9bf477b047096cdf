"""The key-value cache of generation, whose rows may come and go.

r rows (beams included), h heads, s new tokens, t columns so far, d width of a head.

The newest token of every row is in the last column, and a row's tokens are next to each other: what a short row lacks
is before it. So rows of any length can be joined, and the first columns can be dropped when no row uses them any more.
"""

from torch import Tensor

CHUNK = 64  # columns that memory grows by


class KeyValues:
    """Keys and values [r,h,t,d] of one block. Memory grows by CHUNK columns: most steps copy only what is new."""

    def __init__(self) -> None:
        self._memory: tuple[Tensor, Tensor] | None = None
        self._first, self._end = 0, 0  # columns of the memory that are in use

    @property
    def columns(self) -> int:
        """t."""
        return self._end - self._first

    @property
    def views(self) -> tuple[Tensor, Tensor]:
        """Keys and values [r,h,t,d]. Nothing must have been dropped from an empty cache."""
        assert self._memory is not None
        key, value = self._memory
        return key[:, :, self._first : self._end], value[:, :, self._first : self._end]

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append [r,h,s,d] -> everything so far [r,h,t,d]."""
        new = key.shape[2]
        if self._memory is None or self._end + new > self._memory[0].shape[2]:
            self._grow((key, value), self.columns + new)
        assert self._memory is not None
        for memory, tensor in zip(self._memory, (key, value), strict=True):
            memory[:, :, self._end : self._end + new] = tensor
        self._end += new
        return self.views

    def select(self, rows: Tensor, unused: int) -> None:
        """Keep the rows numbered `rows` [r'] int64, repeats allowed, without the first `unused` columns."""
        if self._memory is None:
            return
        first = self._first + unused
        key, value = self._memory
        self._memory = key[rows, :, first:], value[rows, :, first:]
        self._first, self._end = 0, self._end - first

    def join(self, other: "KeyValues") -> None:
        """Put the rows of another cache behind these. The shorter one gets zeros before its columns."""
        columns, own = max(self.columns, other.columns), self.views
        memory = _memory(own, len(own[0]) + len(other.views[0]), columns + 1)
        for new, *parts in zip(memory, own, other.views, strict=True):
            new[:, :, :columns] = 0
            new[: len(parts[0]), :, columns - self.columns : columns] = parts[0]
            new[len(parts[0]) :, :, columns - other.columns : columns] = parts[1]
        self._memory, self._first, self._end = memory, 0, columns

    def _grow(self, like: tuple[Tensor, Tensor], columns: int) -> None:
        """To new memory for at least `columns`."""
        memory, used = _memory(like, len(like[0]), columns), self.columns
        if self._memory is not None:
            for new, old in zip(memory, self.views, strict=True):
                new[:, :, :used] = old
        self._memory, self._first, self._end = memory, 0, used


def _memory(like: tuple[Tensor, Tensor], rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Uninitialised keys and values of that many rows and at least so many columns."""
    room = columns + -columns % CHUNK
    key, value = (x.new_empty(rows, x.shape[1], room, x.shape[3]) for x in like)
    return key, value


class KeyValueCache:
    """One `KeyValues` a block."""

    def __init__(self, blocks: int) -> None:
        self.blocks = [KeyValues() for _ in range(blocks)]

    @property
    def columns(self) -> int:
        """Columns of finished steps."""
        return self.blocks[-1].columns

    def append(self, block: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append [r,h,s,d] to what block number `block` holds -> everything so far [r,h,t,d]."""
        return self.blocks[block].append(key, value)

    def select(self, rows: Tensor, unused: int) -> None:
        """As `KeyValues.select`, in every block."""
        for block in self.blocks:
            block.select(rows, unused)

    def join(self, other: "KeyValueCache") -> None:
        """As `KeyValues.join`, in every block."""
        for block, more in zip(self.blocks, other.blocks, strict=True):
            block.join(more)
