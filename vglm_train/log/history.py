"""What a run has logged, by metric and in little memory, for a hundred thousand rows and more."""

import math
from array import array
from collections.abc import Sequence

from vglm_train.log.jsonl import Row


class History:
    """Steps and values of each metric, in the order of their rows."""

    def __init__(self) -> None:
        self.last_step = 0
        self.rows = 0
        self.finite: dict[str, bool] = {}  # metric -> whether its newest value is
        self._columns: dict[str, tuple[array[float], array[float]]] = {}

    def add(self, step: int, row: Row) -> None:
        """Take a row; what is not finite is remembered as no value."""
        self.last_step, self.rows = step, self.rows + 1
        for name, value in row.items():
            column = self._columns.get(name)
            if column is None:
                column = self._columns[name] = (array("d"), array("d"))
            self.finite[name] = math.isfinite(value)
            if self.finite[name]:
                column[0].append(step)
                column[1].append(value)

    def names(self) -> set[str]:
        """All metrics, those without a finite value too."""
        return set(self._columns)

    def series(self, name: str) -> tuple[Sequence[float], Sequence[float]]:
        """Steps and finite values of a metric; empty where the run has none."""
        return self._columns.get(name) or (array("d"), array("d"))

    def last(self, name: str) -> float | None:
        """The newest finite value of a metric."""
        values = self.series(name)[1]
        return values[-1] if values else None

    def mean(self, name: str, rows: int = 10) -> float | None:
        """The mean of the newest finite values of a metric."""
        values = self.series(name)[1][-rows:]
        return sum(values) / len(values) if values else None
