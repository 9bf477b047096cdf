"""Metrics between two log steps: summed on the device, reduced over ranks once, copied to the host once."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from vglm_train.distributed import Ranks

Number = Tensor | float | int

CAPACITY = 64  # names: the reduced tensor keeps one shape whatever they are, so that a difference cannot hang


class Meter:
    """Accumulates named means, totals and last values without waiting for the device.

    Every rank adds the same names between two calls of `row`; a difference is an AssertionError on all ranks.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._sums: dict[str, Number] = {}
        self._counts: dict[str, Number] = {}  # of means only
        self._last: dict[str, Number] = {}

    def add(self, name: str, total: Number, count: Number) -> None:
        """Add to a mean over all ranks: `total` (0-d tensor or number) is the sum over `count` units of this rank."""
        _accumulate(self._sums, name, total)
        _accumulate(self._counts, name, count)

    def total(self, name: str, value: Number) -> None:
        """Add to a sum over all ranks."""
        _accumulate(self._sums, name, value)

    def last(self, name: str, value: Number) -> None:
        """Set a value that is the same on every rank; the row shows the latest one."""
        self._last[name] = value.detach().clone() if isinstance(value, Tensor) else value

    def row(self) -> dict[str, float]:
        """Everything since the previous call, the same on every rank; then starts afresh.

        One all-reduce, one copy to the host. A mean over no unit at all is left out.
        """
        names = sorted(self._sums)
        assert len(names) <= CAPACITY, f"{len(names)} metrics, at most {CAPACITY} fit"
        padding = [0.0] * (CAPACITY - len(names))
        mark = _hash([f"{name} {name in self._counts}" for name in names])
        values = [self._sums[n] for n in names] + padding + [self._counts.get(n, 0.0) for n in names] + padding
        reduced = self.ranks.all_sum(self._vector([*values, mark, mark**2]))
        host = torch.cat([reduced, self._vector(list(self._last.values()))]).tolist()
        marks, squares = host[2 * CAPACITY : 2 * CAPACITY + 2]
        same = int(squares) * self.ranks.world == int(marks) ** 2  # no variance over ranks
        assert same, f"ranks disagree on the names of metrics; rank {self.ranks.rank} has {names}"
        row = self._means(names, host[:CAPACITY], host[CAPACITY : 2 * CAPACITY])
        row.update(zip(self._last, host[2 * CAPACITY + 2 :]))
        self._sums, self._counts, self._last = {}, {}, {}
        return row

    def _means(self, names: list[str], sums: list[float], counts: list[float]) -> dict[str, float]:
        row = {}
        for name, total, count in zip(names, sums, counts):
            if name not in self._counts:
                row[name] = total
            elif count:
                row[name] = total / count
        return row

    def _vector(self, values: Sequence[Number]) -> Tensor:
        """[len(values)] float64 on the device: numbers in one copy from the host, tensors without one."""
        numbers = [0.0 if isinstance(value, Tensor) else float(value) for value in values]
        vector = torch.tensor(numbers, dtype=torch.float64).to(self.ranks.device)
        for index, value in enumerate(values):
            if isinstance(value, Tensor):
                vector[index] = value.reshape(())
        return vector


def _accumulate(into: dict[str, Number], name: str, value: Number) -> None:
    value = value.detach().double() if isinstance(value, Tensor) else float(value)
    into[name] = into[name] + value if name in into else value


def _hash(names: Sequence[str]) -> float:
    """A hash of a list of names, below 2**20, so that sums of its square stay exact in float64."""
    return float(int.from_bytes(hashlib.blake2b("\n".join(names).encode(), digest_size=4).digest()) >> 12)
