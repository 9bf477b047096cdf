"""Pairs of 64-bit hashes that differ in few bits, without comparing all with all.

Multi-index hashing (Norouzi, Punjani, Fleet, "Fast Search in Hamming Space with Multi-Index Hashing", 2012): the bits
are cut into m bands. Hashes that differ in at most d bits differ in at most d // m bits within one band, so each hash
looks up every value that near to its own in every band's table. m is chosen for the number of hashes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

BITS = 64
WIDEST = 22  # bits of a band: its table has 2^bits entries
HELD = 4_000_000  # candidates compared in one go

Hashes = NDArray[np.uint64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class BandTable:
    """The hashes by the value of one band."""

    shift: int
    width: int
    order: Rows  # [n] hashes in order of the band's value
    starts: Rows  # [2^width + 1] where each value begins in `order`

    def values(self, hashes: Hashes) -> Rows:
        return ((hashes >> np.uint64(self.shift)) & np.uint64((1 << self.width) - 1)).astype(np.int64)


def count_bands(hashes: int, distance: int) -> int:
    """The number of bands for which `hashes` random hashes cost least."""

    def cost(bands: int) -> float:
        width = BITS / bands
        probes = sum(math.comb(math.ceil(width), k) for k in range(distance // bands + 1))
        return bands * probes * (40 + hashes / 2**width)  # a look-up costs some 40 comparisons

    return min((bands for bands in range(1, BITS + 1) if math.ceil(BITS / bands) <= WIDEST), key=cost)


class NearPairs:
    """Pairs (i, j), i < j, of `hashes` [n] that differ in at most `distance` bits."""

    def __init__(self, hashes: Hashes, distance: int) -> None:
        self.hashes, self.distance = hashes, distance
        bands = count_bands(len(hashes), distance)
        self.radius = distance // bands
        edges = [round(BITS * band / bands) for band in range(bands + 1)]
        self.tables = [self._table(low, high - low) for low, high in pairwise(edges)]

    def _table(self, shift: int, width: int) -> BandTable:
        table = BandTable(shift, width, np.empty(0, np.int64), np.empty(0, np.int64))
        values = table.values(self.hashes)
        starts = np.concatenate([[0], np.cumsum(np.bincount(values, minlength=1 << width))])
        return BandTable(shift, width, np.argsort(values, kind="stable"), starts)

    def of(self, first: int, count: int) -> Iterator[tuple[Rows, Rows, Rows]]:
        """(i, j, distance) for i from `first` on, `count` of them; every pair once."""
        rows = np.arange(first, min(first + count, len(self.hashes)))
        for number, table in enumerate(self.tables):
            values = table.values(self.hashes[rows])
            for mask in _masks(table.width, self.radius):
                probed = values ^ mask
                sizes = table.starts[probed + 1] - table.starts[probed]
                for part in _parts(sizes):
                    starts = table.starts[probed[part]]
                    yield from self._matches(rows[part], starts, sizes[part], number)

    def _matches(self, rows: Rows, starts: Rows, sizes: Rows, number: int) -> Iterator[tuple[Rows, Rows, Rows]]:
        i = np.repeat(rows, sizes)
        if not len(i):
            return
        before = np.repeat(np.cumsum(sizes) - sizes, sizes)
        table = self.tables[number]
        j = table.order[np.repeat(starts, sizes) + np.arange(len(i)) - before]
        difference = self.hashes[i] ^ self.hashes[j]
        distances = np.bitwise_count(difference).astype(np.int64)
        kept = (distances <= self.distance) & (i < j)
        for earlier in self.tables[:number]:  # that have found it already
            kept &= np.bitwise_count(earlier.values(difference)) > self.radius
        if kept.any():
            yield i[kept], j[kept], distances[kept]


def _masks(width: int, radius: int) -> Iterator[int]:
    """All values of `width` bits with at most `radius` of them set."""
    for count in range(min(radius, width) + 1):
        for bits in combinations(range(width), count):
            yield sum(1 << bit for bit in bits)


def _parts(sizes: Rows) -> Iterator[slice]:
    """Neighbours whose sizes add up to HELD or so."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + HELD, side="right")))
        yield slice(start, stop)
        start = stop
