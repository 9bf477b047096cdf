"""One pass over a table as `check_table` makes it: which rows can be used, what is wrong with the others."""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.check_table.pictures import OpenedPictures, open_file, open_picture
from data_tools.common import cli
from data_tools.common.pool import spread
from vglm_train.data.record import RecordError
from vglm_train.data.tables.canonical import to_record
from vglm_train.data.tables.image_paths import find
from vglm_train.data.tables.table import Table


@dataclass(slots=True)
class TableScan:
    """A table after a pass over its rows and pictures. n rows, of which `usable` [n] bool says which can be used; only
    these are in `answers` and `lengths`, and every other one counts once in `damage`, by the first thing wrong with it.
    """

    table: Table
    opened: bool  # whether pictures were decoded; else only looked for
    usable: NDArray[np.bool_]
    damage: Counter[str] = field(default_factory=Counter)  # cause -> rows
    examples: dict[str, str] = field(default_factory=dict)  # cause -> where it is
    answers: dict[str, Counter[str]] = field(default_factory=dict)  # type -> answer -> rows
    lengths: Counter[int] = field(default_factory=Counter)  # words of an answer, or Chinese characters -> answers
    names: list[str] = field(default_factory=list)  # of pictures that are there
    pictures: OpenedPictures = field(
        default_factory=OpenedPictures
    )  # by their number in `names`, where they were opened

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
    """Those that rows name, each once, and the rows that name them."""

    folder: Path
    opened: OpenedPictures | None  # where pictures inside the table are opened at once; None: they are not
    names: list[str] = field(default_factory=list)
    files: dict[Path, int] = field(default_factory=dict)  # number of each that is a file
    known: dict[str, int | None] = field(default_factory=dict)  # as written -> number
    naming: array = field(default_factory=lambda: array("q"))  # row, number, row, number, ...

    def number(self, name: str | bytes, row: int) -> int | None:
        """The number of a picture; None where there is none."""
        if isinstance(name, bytes):
            self.names.append(f"row {row}")
            if self.opened is not None:
                self.opened.add(len(self.names) - 1, open_picture(name))
            return len(self.names) - 1
        if name not in self.known:
            self.known[name] = self._file(name)
        return self.known[name]

    def _file(self, name: str) -> int | None:
        path = find(self.folder, name)
        if path is None:
            return None
        file = path.resolve()
        if file not in self.files:
            self.files[file] = len(self.names)
            self.names.append(name)
        return self.files[file]

    def spoilt(self, bad: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Row and number for each row that names one of `bad`: its first."""
        pairs = np.array(self.naming, dtype=np.int64).reshape(-1, 2)
        found = pairs[np.isin(pairs[:, 1], bad)]
        _, first = np.unique(found[:, 0], return_index=True)
        yield from ((row, number) for row, number in found[first].tolist())


def scan_table(table: Table, workers: int, opened: bool = True) -> TableScan:
    """Read every row, look for every picture, and decode it if `opened`."""
    scan = TableScan(table, opened, np.zeros(len(table.index), dtype=bool))
    pictures = _Pictures(table.images, scan.pictures if opened else None)
    with cli.progress(len(table.index), "row", f"read {table.path.name}") as bar:
        for row in range(len(table.index)):
            bar.update(1)
            _read(scan, pictures, row)
    scan.names = pictures.names
    if opened:
        with cli.progress(len(pictures.files), "picture", "decode") as bar:
            for path, picture in spread(open_file, list(pictures.files), workers, open_file.__module__):
                scan.pictures.add(pictures.files[path], picture)
                bar.update(1)
        _leave_out(scan, pictures)
    return scan


def _read(scan: TableScan, pictures: _Pictures, row: int) -> None:
    """Count a row, and note its pictures."""
    table = scan.table
    try:
        record, named = to_record(table.file.row(*table.index.offsets[row].tolist()), table.columns)
    except RecordError as error:
        scan.spoil(str(error), f"row {row}")
        return
    numbers = [pictures.number(name, row) for name in named]
    for name, number in zip(named, numbers):
        if number is None:
            scan.spoil("a picture that is not there", f"row {row}, {table.images / str(name)}")
            return
        pictures.naming.extend((row, number))
    scan.usable[row] = True
    scan.count(record, 1)


def _leave_out(scan: TableScan, pictures: _Pictures) -> None:
    """Rows whose pictures turned out to be damaged."""
    table = scan.table
    damage = {number: each.damage for number, each in scan.pictures.known.items() if each.damage is not None}
    for row, number in pictures.spoilt(list(damage)):
        if scan.usable[row]:
            record, _ = to_record(table.file.row(*table.index.offsets[row].tolist()), table.columns)
            scan.count(record, -1)
            scan.usable[row] = False
            example = f"row {row}, {scan.names[number]}: {damage[number]}"
            scan.spoil("a picture that cannot be decoded", example)
