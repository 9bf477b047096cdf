"""Many shards in little memory: tens of thousands of them are the start of a large run, in every process of it."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from vglm_train.data.lru import LruCache
from vglm_train.data.shards.shard import Shard

KEPT = 64  # shards that were looked up last


class _Shards(Sequence[Shard]):
    """Shards that are made when they are looked up."""

    def one(self, number: int) -> Shard:
        """Shard `number`, from 0 on."""
        raise NotImplementedError

    @overload
    def __getitem__(self, key: int) -> Shard: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[Shard, ...]: ...
    def __getitem__(self, key: int | slice) -> Shard | tuple[Shard, ...]:
        numbers = range(len(self))[key]
        return self.one(numbers) if isinstance(numbers, int) else tuple(map(self.one, numbers))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]


class ShardList(_Shards):
    """The shards of a folder, about 130 bytes each. `place`: done to each that is looked up."""

    def __init__(self, shards: Iterable[Shard], folder: Path, place: Callable[[Shard], Shard] | None = None) -> None:
        """`shards`: read once; the path of each is its name in `folder`, until `place` gives it another."""
        self.folder, self.place = folder, place
        names: list[bytes] = []
        hashes: list[bytes] = []
        counts: list[tuple[int, int]] = []
        languages: dict[str, dict[int, int]] = {}
        counted = bytearray()
        for number, shard in enumerate(shards):
            names.append(shard.name.encode("utf-8", "surrogatepass"))
            hashes.append(shard.sha256.encode("utf-8", "surrogatepass"))
            counts.append((shard.samples, shard.bytes))
            counted.append(shard.languages is not None)
            for name, samples in (shard.languages or {}).items():
                languages.setdefault(name, {})[number] = samples
        self._names, self._hashes = np.array(names, dtype=np.bytes_), np.array(hashes, dtype=np.bytes_)
        self._counts = np.array(counts, dtype=np.int64).reshape(-1, 2)  # [n,2] samples, bytes
        self._counted = bytes(counted)
        self._languages = {name: self._column(samples) for name, samples in languages.items()}
        self._last: LruCache[int, Shard] = LruCache(KEPT, self._made)

    def _column(self, samples: dict[int, int]) -> NDArray[np.int64]:
        """[n] samples of each shard; -1 of those that do not name the language."""
        column = np.full(len(self._names), -1, dtype=np.int64)
        column[list(samples)] = list(samples.values())
        return column

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Shard]:
        return map(self._made, range(len(self)))

    @property
    def samples(self) -> list[int]:
        """Of each shard; none is made for it."""
        counts: list[int] = self._counts[:, 0].tolist()
        return counts

    def one(self, number: int) -> Shard:
        return self._last[number]

    def _made(self, number: int) -> Shard:
        name, sha256 = (str(texts[number], "utf-8", "surrogatepass") for texts in (self._names, self._hashes))
        samples, size = self._counts[number].tolist()
        languages = None
        if self._counted[number]:
            columns = ((language, int(column[number])) for language, column in self._languages.items())
            languages = {language: count for language, count in columns if count >= 0}
        shard = Shard(name, self.folder / name, samples, size, sha256, languages)
        return shard if self.place is None else self.place(shard)


class JoinedShards(_Shards):
    """Several sequences of shards, one behind the other."""

    def __init__(self, parts: Iterable[Sequence[Shard]]) -> None:
        self.parts = tuple(parts)
        self.starts = list(accumulate(map(len, self.parts), initial=0))

    def __len__(self) -> int:
        return self.starts[-1]

    def __iter__(self) -> Iterator[Shard]:
        for part in self.parts:
            yield from part

    def one(self, number: int) -> Shard:
        part = bisect_right(self.starts, number) - 1
        return self.parts[part][number - self.starts[part]]
