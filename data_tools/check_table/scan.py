"""One pass over a table as `check_table` makes it: which rows can be used, what is wrong with the others.

A row passes what it passes in training and in `convert`, by the same functions: `Table.reading`, `parse`, the check of
the stage's processor (without a configuration `LanguageCheck`, which knows no tokenizer), and the decoding of its
pictures. Rows are counted by what is wrong with them: of one cause are those that are mended alike.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.check_table.pictures import OpenedPictures, open_file, open_picture
from data_tools.common.pool import spread
from vglm_train.data.processors import RecordCheck
from vglm_train.data.record import RecordError, parse
from vglm_train.data.tables.canonical import RowReading
from vglm_train.data.tables.image_paths import PictureFolder
from vglm_train.data.tables.table import Table
from vglm_train.progress import Progress


@dataclass(slots=True)
class Findings:
    """How many rows something was found in, and the first of them."""

    counts: Counter[str] = field(default_factory=Counter)  # what -> rows
    examples: dict[str, str] = field(default_factory=dict)  # what -> where, and what is special there

    def add(self, what: str, example: str) -> None:
        self.counts[what] += 1
        self.examples.setdefault(what, example)


@dataclass(slots=True)
class TableScan:
    """A table after a pass over its rows and pictures. n rows, of which `usable` [n] bool says which can be used; only
    these are in `answers` and `lengths`, and every other one counts once in `damage`, by the first thing wrong with it,
    or in `outside`.
    """

    table: Table
    opened: bool  # whether pictures were decoded; else only looked for
    usable: NDArray[np.bool_]
    outside: int = 0  # rows of other splits than the one asked for
    damage: Findings = field(default_factory=Findings)
    notes: Findings = field(default_factory=Findings)  # what is left out, or doubtful, of rows that were read
    answers: dict[str, Counter[str]] = field(default_factory=dict)  # type -> answer -> rows
    lengths: Counter[int] = field(default_factory=Counter)  # words of an answer, or Chinese characters -> answers
    names: list[str] = field(default_factory=list)  # of pictures that are there
    pictures: OpenedPictures = field(
        default_factory=OpenedPictures
    )  # by their number in `names`, where they were opened

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

    where: Callable[[int], str]  # names a row
    folder: PictureFolder
    opened: OpenedPictures | None  # where pictures inside the table are opened at once; None: they are not
    by_row: bool = False  # whether pictures are called by the row that names them first
    names: list[str] = field(default_factory=list)
    files: dict[Path, int] = field(default_factory=dict)  # number of each that is a file
    known: dict[str, int | None] = field(default_factory=dict)  # as written -> number
    naming: "array[int]" = field(default_factory=lambda: array("q"))  # row, number, row, number, ...

    def number(self, name: str | bytes, row: int) -> int | None:
        """The number of a picture; None where there is none."""
        if isinstance(name, bytes):
            self.names.append(self.where(row))
            if self.opened is not None:
                self.opened.add(len(self.names) - 1, open_picture(name))
            return len(self.names) - 1
        if name not in self.known:
            self.known[name] = self._file(name, self.where(row) if self.by_row else name)
        return self.known[name]

    def _file(self, name: str, called: str) -> int | None:
        path = self.folder.find(name)
        if path is None:
            return None
        file = path.resolve()
        if file not in self.files:
            self.files[file] = len(self.names)
            self.names.append(called)
        return self.files[file]

    def spoilt(self, bad: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Row and number for each row that shows one of `bad`: its first."""
        pairs = np.array(self.naming, dtype=np.int64).reshape(-1, 2)
        found = pairs[np.isin(pairs[:, 1], bad)]
        _, first = np.unique(found[:, 0], return_index=True)
        yield from ((row, number) for row, number in found[first].tolist())


def scan_table(
    table: Table, check: RecordCheck, workers: int, opened: bool = True, split: str | None = None
) -> TableScan:
    """Read every row, of `split` alone if that is given, look for every picture, and decode it if `opened`."""
    scan = TableScan(table, opened, np.zeros(len(table.index), dtype=bool))
    rows = np.flatnonzero(table.of_split(split)).tolist()
    scan.outside = len(table.index) - len(rows)
    pictures = _Pictures(table.where, table.pictures, scan.pictures if opened else None, table.schema.dicom)
    with Progress(len(rows), "row", f"read {table.path.name}") as bar:
        for row in rows:
            bar.update(1)
            _read(scan, pictures, row, check)
    scan.names = pictures.names
    if opened:
        with Progress(len(pictures.files), "picture", "decode") as bar:
            for path, picture in spread(open_file, list(pictures.files), workers, open_file.__module__):
                scan.pictures.add(pictures.files[path], picture)
                bar.update(1)
        _leave_out(scan, pictures)
    return scan


def _read(scan: TableScan, pictures: _Pictures, row: int, check: RecordCheck) -> None:
    """Count a row, and note its pictures."""
    try:
        reading = scan.table.reading(row)
        shown = check.check(parse(reading.record), len(reading.pictures))
    except RecordError as error:
        scan.damage.add(error.what, _example(scan, row, str(error)))
        return
    numbers = [pictures.number(name, row) for name in reading.pictures]
    for name, number in zip(reading.pictures, numbers):
        if number is None:
            problem = scan.table.pictures.problem(str(name))
            problem = problem.partition(": ")[0] if scan.table.schema.dicom else problem
            scan.damage.add(problem.partition(": ")[0], _example(scan, row, problem))
            return
    for number in numbers[:shown]:
        assert number is not None
        pictures.naming.extend((row, number))
    scan.usable[row] = True
    _count(scan, row, reading)


def _count(scan: TableScan, row: int, reading: RowReading) -> None:
    scan.count(reading.record, 1)
    for note in reading.notes:
        scan.notes.add(note.partition(": ")[0], _example(scan, row, note))


def _example(scan: TableScan, row: int, text: str) -> str:
    """The row, and after a colon what is special about it."""
    _, colon, special = text.partition(": ")
    return f"{scan.table.where(row)}{colon}{special}"


def _leave_out(scan: TableScan, pictures: _Pictures) -> None:
    """Rows whose pictures turned out to be damaged."""
    damage = {number: each.damage for number, each in scan.pictures.known.items() if each.damage is not None}
    for row, number in pictures.spoilt(list(damage)):
        scan.count(scan.table.reading(row).record, -1)
        scan.usable[row] = False
        what, colon, special = damage[number].partition(": ")
        scan.damage.add(what, f"{scan.table.where(row)}, {scan.names[number]}{colon}{special}")
