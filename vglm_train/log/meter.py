"""Metrics between two log steps: kept and summed on the device, reduced over ranks once, copied to the host once."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from vglm_train.distributed import Ranks

Number = Tensor | float | int

KEPT = 64  # values of a name that wait to be added up
CAPACITY = 64  # names: the reduced tensor keeps one shape whatever they are, so that a difference cannot hang


class Meter:
    """Accumulates named means, totals and last values without waiting for the device.

    Every rank adds the same names between two calls of `row`; a difference is an AssertionError on all ranks.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._sums: dict[str, list[Number]] = {}
        self._counts: dict[str, list[Number]] = {}  # of means only
        self._last: dict[str, Number] = {}

    def add(self, name: str, total: Number, count: Number) -> None:
        """Add to a mean over all ranks: `total` (0-d tensor or number) is the sum over `count` units of this rank.

        Tensors are kept as they are until the row is made: nobody may change them, and they should not be views.
        """
        _keep(self._sums, name, total)
        _keep(self._counts, name, count)

    def total(self, name: str, value: Number) -> None:
        """Add to a sum over all ranks. A tensor is kept as `add` keeps them."""
        _keep(self._sums, name, value)

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
        sums, counts = (totals([kept.get(n, []) for n in names]) for kept in (self._sums, self._counts))
        values = [*sums, *padding, *counts, *padding]
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
        """[len(values)] float64 on the device: numbers in one copy from the host, tensors without one, in order."""
        numbers = torch.tensor([float(x) for x in values if not isinstance(x, Tensor)], dtype=torch.float64)
        tensors = [x.reshape(()).double() for x in values if isinstance(x, Tensor)]
        if not tensors:
            return numbers.to(self.ranks.device)
        places = sorted(range(len(values)), key=lambda i: not isinstance(values[i], Tensor))  # tensors are first
        order = torch.tensor(places).argsort().to(self.ranks.device)
        return torch.cat([torch.stack(tensors), numbers.to(self.ranks.device)])[order]


def _keep(into: dict[str, list[Number]], name: str, value: Number) -> None:
    """Values are added up when many have come: a sum at each step would be two launches for each of them."""
    kept = into.setdefault(name, [])
    kept.append(value.detach() if isinstance(value, Tensor) else value)
    if len(kept) >= KEPT:
        kept[:] = totals([kept])


def totals(columns: Sequence[Sequence[Number]]) -> list[Number]:
    """The sum of each column of numbers and 0-d tensors, in float64. Tensors of one dtype take a few launches."""
    found: list[Number] = [float(sum(x for x in column if not isinstance(x, Tensor))) for column in columns]
    tensors = [[x for x in column if isinstance(x, Tensor)] for column in columns]
    for dtype in sorted({x.dtype for column in tensors for x in column}, key=str):
        chosen = {i: [x for x in column if x.dtype == dtype] for i, column in enumerate(tensors)}
        chosen = {i: column for i, column in chosen.items() if column}
        longest = max(map(len, chosen.values()))
        zero = torch.zeros_like(next(iter(chosen.values()))[0])
        table = [x.reshape(()) for column in chosen.values() for x in (*column, *[zero] * (longest - len(column)))]
        sums = torch.stack(table).view(len(chosen), longest).double().sum(1)
        for i, total in zip(chosen, sums.unbind()):
            before = found[i]
            found[i] = before + total if isinstance(before, Tensor) or before else total
    return found


def _hash(names: Sequence[str]) -> float:
    """A hash of a list of names, below 2**20, so that sums of its square stay exact in float64."""
    return float(int.from_bytes(hashlib.blake2b("\n".join(names).encode(), digest_size=4).digest()) >> 12)
