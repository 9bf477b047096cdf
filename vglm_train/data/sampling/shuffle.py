"""The order of a source's samples: a pure function of (seed, source, epoch), found place by place.

Shards are permuted, then cut into windows of `shuffle_shards`; the samples of a window are permuted together. So any
stretch of the order touches few shards, no rank or worker has a say in it, and nothing of the size of the data set is
ever held in memory.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vglm_train.data.lru import LruCache


@dataclass(frozen=True, slots=True)
class _Epoch:
    shards: NDArray[np.int64]  # [shards] in this epoch's order
    starts: NDArray[np.int64]  # [shards + 1] place in the epoch where each begins, before samples are permuted


class EpochShuffle:
    """Places of an epoch -> samples. `counts`: samples of each shard, in the source's own order."""

    def __init__(self, counts: Sequence[int], seed: int, source: str, shuffle_shards: int) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        self.seed, self.source, self.window = seed, source, shuffle_shards
        self.samples = int(self.counts.sum())
        self._epochs: LruCache[int, _Epoch] = LruCache(2, self._epoch)
        self._windows: LruCache[tuple[int, int], NDArray[np.int64]] = LruCache(3, self._window)

    def at(self, epoch: int, position: int) -> tuple[int, int]:
        """The shard, and the sample in it, that stands at `position` (0 <= position < samples) of an epoch."""
        assert 0 <= position < self.samples
        plan = self._epochs[epoch]
        window = (int(np.searchsorted(plan.starts, position, side="right")) - 1) // self.window
        start = int(plan.starts[window * self.window])
        place = start + int(self._windows[epoch, window][position - start])
        nth = int(np.searchsorted(plan.starts, place, side="right")) - 1
        return int(plan.shards[nth]), place - int(plan.starts[nth])

    def following(self, epoch: int, shard: int) -> tuple[list[int], list[int]]:
        """The shards of the window that `shard` is in, in this epoch, and those of the window after it."""
        order = self._epochs[epoch].shards
        start = int(np.flatnonzero(order == shard)[0]) // self.window * self.window
        end = start + self.window
        then = order[end : end + self.window] if end < len(order) else self._epochs[epoch + 1].shards[: self.window]
        return order[start:end].tolist(), then.tolist()

    def _epoch(self, epoch: int) -> _Epoch:
        shards = permutation(len(self.counts), self.seed, self.source, epoch)
        return _Epoch(shards, np.concatenate([[0], np.cumsum(self.counts[shards])]))

    def _window(self, key: tuple[int, int]) -> NDArray[np.int64]:
        epoch, window = key
        starts = self._epochs[epoch].starts
        first, last = window * self.window, min((window + 1) * self.window, len(self.counts))
        return permutation(int(starts[last] - starts[first]), self.seed, self.source, epoch, window)


def permutation(size: int, *key: object) -> NDArray[np.int64]:
    """A permutation of range(size) that depends on `key` alone.

    Sorts SplitMix64 hashes (Steele, Lea, Flood 2014) rather than ask a library's generator, whose streams may change
    between releases: a run resumed after an upgrade must still read every sample once.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    x = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(int.from_bytes(digest))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(x ^ (x >> np.uint64(31)), kind="stable")
