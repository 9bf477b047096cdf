"""Tables that are the splits of one data set, as one table."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from vglm_train.data.tables.base import Row, TableFile
from vglm_train.data.tables.json_outline import SPLITS

Values = dict[str, Any]


class SplitTable:
    """The rows of tables whose offsets are numbers, one table after the other. Each row has the name of its table as
    its `split`, unless it names one itself."""

    unit = "row"

    def __init__(self, path: Path, parts: Mapping[str, TableFile]) -> None:
        self.path, self.names, self.parts = path, list(parts), list(parts.values())
        self.starts = list(accumulate((part.size for part in self.parts), initial=0))

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*(name for part in self.parts for name in part.columns), "split"]))

    @property
    def size(self) -> int:
        return self.starts[-1]

    @property
    def identity(self) -> str:
        return " ".join(f"{name} {part.identity}" for name, part in zip(self.names, self.parts))

    def scan(self) -> Iterator[Row]:
        for start, name, part in zip(self.starts, self.names, self.parts):
            for row in part.scan():
                values = None if row.values is None else _with_split(row.values, name)
                yield row._replace(offset=start + row.offset, values=values)

    def row(self, offset: int, size: int) -> Values:
        part, inside = self._part_of(offset)
        return _with_split(self.parts[part].row(inside, size), self.names[part])

    def where(self, offset: int, size: int, number: int) -> str:
        part, inside = self._part_of(offset)
        return f"{self.names[part]} {self.parts[part].where(inside, size, number)}".lstrip()

    def _part_of(self, offset: int) -> tuple[int, int]:
        """The number of the table that a row is of, and its offset there."""
        part = bisect_right(self.starts, offset) - 1
        return part, offset - self.starts[part]


def _with_split(row: Values, name: str) -> Values:
    return row if row.get("split") else row | {"split": name}


def split_of(path: str) -> str | None:
    """The split that a file's path says it is of, as the Hugging Face hub's do: train-00000-of-00002.parquet,
    data/validation/0.tar. None where it says none."""
    parts = [part for name in path.split("/") for part in name.replace(".", "-").replace("_", "-").split("-")]
    return next((part for part in parts if part.lower() in SPLITS), None)
