"""One pass over a table as `check_table` makes it: which rows can be used, what is wrong with the others."""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools._looking import Seen, look, look_at
from data_tools.common import cli
from data_tools.common.pool import spread
from vglm_train.data.record import RecordError
from vglm_train.data.tables.canonical import canonical
from vglm_train.data.tables.image_paths import find
from vglm_train.data.tables.table import Table


@dataclass(slots=True)
class TableScan:
    """A table after a pass over its rows and pictures. n rows, of which `usable` [n] bool says which can be used; only
    these are in `answers` and `lengths`, and every other one counts once in `damage`, by the first thing wrong with it.
    """

    table: Table
    opened: bool  # whether pictures were decoded; else it was looked whether they are there
    usable: NDArray[np.bool_]
    damage: Counter[str] = field(default_factory=Counter)  # cause -> rows
    examples: dict[str, str] = field(default_factory=dict)  # cause -> where it is
    answers: dict[str, Counter[str]] = field(default_factory=dict)  # type -> answer -> rows
    lengths: Counter[int] = field(default_factory=Counter)  # words of an answer, or Chinese characters -> answers
    names: list[str] = field(default_factory=list)  # of pictures that are there
    seen: list[Seen] = field(default_factory=list)  # of the same, where they were opened

    def spoil(self, cause: str, example: str) -> None:
        self.damage[cause] += 1
        self.examples.setdefault(cause, example)

    def count(self, record: dict[str, Any], times: int) -> None:
        """Add a record's answers, or with -1 take them back."""
        for turn in record.get("turns", ())[1::2]:
            text = turn["text"].strip()
            self.answers.setdefault(record.get("type", "all"), Counter())[text] += times
            length = len("".join(text.split())) if record["language"] == "zh" else len(text.split())
            self.lengths[length] += times


@dataclass(slots=True)
class _Pictures:
    """Those that rows name, each once, with who names them."""

    folder: Path
    names: list[str] = field(default_factory=list)
    sources: list[Path | Seen] = field(default_factory=list)  # a file, or what was seen of bytes in the table
    known: dict[str | Path, int | None] = field(default_factory=dict)  # as written, or resolved -> number
    naming: array = field(default_factory=lambda: array("q"))  # row, number, row, number, ...

    def place(self, name: str | bytes, row: int, opened: bool) -> int | None:
        """The number of a picture; None where there is none."""
        if isinstance(name, bytes):
            return self._new(f"row {row}", look(name) if opened else Seen(0, ()))
        if name not in self.known:
            self.known[name] = self._file(name)
        return self.known[name]

    def _file(self, name: str) -> int | None:
        path = find(self.folder, name)
        if path is None:
            return None
        file = path.resolve()
        if file not in self.known:
            self.known[file] = self._new(name, file)
        return self.known[file]

    def _new(self, name: str, source: Path | Seen) -> int:
        self.names.append(name)
        self.sources.append(source)
        return len(self.names) - 1

    def spoilt(self, bad: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Row and number for each row that names one of `bad`: its first."""
        pairs = np.array(self.naming, dtype=np.int64).reshape(-1, 2)
        found = pairs[np.isin(pairs[:, 1], bad)]
        _, first = np.unique(found[:, 0], return_index=True)
        yield from ((row, number) for row, number in found[first].tolist())


def scan_table(table: Table, workers: int, opened: bool = True) -> TableScan:
    """Read every row, look for every picture, and decode it if `opened`."""
    looked, pictures = TableScan(table, opened, np.zeros(len(table.index), dtype=bool)), _Pictures(table.images)
    with cli.progress(len(table.index), "row", f"read {table.path.name}") as bar:
        for row in range(len(table.index)):
            bar.update(1)
            _read(looked, pictures, row)
    looked.names = pictures.names
    if opened:
        looked.seen = _open(pictures.sources, workers)
        _leave_out(looked, pictures)
    return looked


def _read(looked: TableScan, pictures: _Pictures, row: int) -> None:
    """Count a row, and note its pictures."""
    table = looked.table
    try:
        record, named = canonical(table.file.row(*table.index.offsets[row].tolist()), table.columns)
    except RecordError as error:
        looked.spoil(str(error), f"row {row}")
        return
    numbers = [pictures.place(name, row, looked.opened) for name in named]
    for name, number in zip(named, numbers):
        if number is None:
            looked.spoil("a picture that is not there", f"row {row}, {table.images / str(name)}")
            return
        pictures.naming.extend((row, number))
    looked.usable[row] = True
    looked.count(record, 1)


def _open(sources: Sequence[Path | Seen], workers: int) -> list[Seen]:
    files = [source for source in sources if isinstance(source, Path)]
    found: dict[Path, Seen] = {}
    with cli.progress(len(files), "picture", "decode") as bar:
        for path, seen in spread(look_at, files, workers, look_at.__module__):
            found[path] = seen
            bar.update(1)
    return [found[source] if isinstance(source, Path) else source for source in sources]


def _leave_out(looked: TableScan, pictures: _Pictures) -> None:
    """Rows whose pictures turned out to be damaged."""
    table, bad = looked.table, [number for number, seen in enumerate(looked.seen) if seen.damage is not None]
    for row, number in pictures.spoilt(bad):
        if looked.usable[row]:
            record, _ = canonical(table.file.row(*table.index.offsets[row].tolist()), table.columns)
            looked.count(record, -1)
            looked.usable[row] = False
            example = f"row {row}, {looked.names[number]}: {looked.seen[number].damage}"
            looked.spoil("a picture that cannot be decoded", example)
