"""The order of a source's samples: a pure function of (seed, source, epoch), computed position by position.

Shards are permuted, then cut into shuffle buffers of `shuffle_shards` shards. The samples of a buffer are permuted
together. So any stretch of the order touches few shards, the order does not depend on ranks or workers, and nothing of
the size of the data set is held in memory.
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
    starts: NDArray[np.int64]  # [shards + 1] position in the epoch where each begins, before samples are permuted


class EpochShuffle:
    """Positions of an epoch -> samples. `counts`: samples of each shard, in the source's own order."""

    def __init__(self, counts: Sequence[int], seed: int, source: str, shuffle_shards: int) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        self.seed, self.source, self.shards_per_buffer = seed, source, shuffle_shards
        self.samples = int(self.counts.sum())
        self._epochs: LruCache[int, _Epoch] = LruCache(2, self._epoch)
        self._buffers: LruCache[tuple[int, int], NDArray[np.int64]] = LruCache(3, self._permuted_buffer)

    def at(self, epoch: int, position: int) -> tuple[int, int]:
        """The shard, and the sample in it, that stands at `position` (0 <= position < samples) of an epoch."""
        assert 0 <= position < self.samples
        plan = self._epochs[epoch]
        buffer = (int(plan.starts.searchsorted(position, side="right")) - 1) // self.shards_per_buffer
        start = int(plan.starts[buffer * self.shards_per_buffer])
        unshuffled = start + int(self._buffers[epoch, buffer][position - start])
        nth = int(plan.starts.searchsorted(unshuffled, side="right")) - 1
        return int(plan.shards[nth]), unshuffled - int(plan.starts[nth])

    def following(self, epoch: int, shard: int) -> tuple[list[int], list[int]]:
        """The shards of the buffer that `shard` is in, in this epoch, and those of the buffer after it."""
        order = self._epochs[epoch].shards
        start = int(np.flatnonzero(order == shard)[0]) // self.shards_per_buffer * self.shards_per_buffer
        end = start + self.shards_per_buffer
        then = (
            order[end : end + self.shards_per_buffer]
            if end < len(order)
            else self._epochs[epoch + 1].shards[: self.shards_per_buffer]
        )
        return order[start:end].tolist(), then.tolist()

    def _epoch(self, epoch: int) -> _Epoch:
        shards = permutation(len(self.counts), self.seed, self.source, epoch)
        return _Epoch(shards, np.concatenate([[0], np.cumsum(self.counts[shards])]))

    def _permuted_buffer(self, key: tuple[int, int]) -> NDArray[np.int64]:
        epoch, buffer = key
        starts = self._epochs[epoch].starts
        first, last = buffer * self.shards_per_buffer, min((buffer + 1) * self.shards_per_buffer, len(self.counts))
        return permutation(int(starts[last] - starts[first]), self.seed, self.source, epoch, buffer)


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
