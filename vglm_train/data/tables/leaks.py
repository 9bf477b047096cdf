"""What both sides of a split of tables have: patients, rows, and pictures, however they are named."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vglm_train.data.record import RecordError, content_id
from vglm_train.data.shards.shard import Shard
from vglm_train.data.tables.table import Table, TableSlice

READ = 20_000  # pictures of both sides together that the start of a run compares by their bytes
EXAMPLES = 3

Side = list[tuple[Table, NDArray[np.int64]]]  # tables and their rows


@dataclass(frozen=True, slots=True)
class Leaks:
    """How much of the first side the second has too."""

    groups: int  # patients, studies or pages
    rows: int  # of the second side, that are on the first word for word with the same picture
    pictures: int | None  # files of the second side that are on the first, byte for byte; None: too many to read
    examples: tuple[str, ...]  # of such pictures

    def __bool__(self) -> bool:
        return bool(self.groups or self.rows or self.pictures)

    def lines(self, held: str = "validation") -> Iterator[str]:
        """In words; no line where nothing is shared. `held`: what the second side is called."""
        if self.groups:
            yield f"{self.groups} groups (patients, studies) are in both training and {held}"
        if self.pictures:
            yield f"{self.pictures} pictures of {held} are in training too: {'; '.join(self.examples)}"
        if self.rows:
            yield f"{self.rows} rows of {held} are in training too, word for word"
        if self.pictures is None:
            yield "pictures were not compared, there are too many: vglm data check_table does it"


def side(shards: Iterable[Shard]) -> Side:
    """The tables among the shards, with the rows that these have."""
    found: dict[int, tuple[Table, list[NDArray[np.int64]]]] = {}
    for shard in shards:
        if isinstance(shard, TableSlice):
            found.setdefault(id(shard.table), (shard.table, []))[1].append(shard.rows)
    return [(table, np.concatenate(rows)) for table, rows in found.values()]


def find_leaks(first: Side, second: Side, read: int | None = READ) -> Leaks:
    """`read`: pictures of both sides at most that are compared by their bytes; None: however many there are."""
    total = sum(len(rows) for _, rows in (*first, *second))
    same = None if read is not None and total > read else same_pictures(named_pictures(first), named_pictures(second))
    return Leaks(
        groups=len(np.intersect1d(_column(first, "groups"), _column(second, "groups"))),
        rows=int(np.isin(_column(second, "contents"), _column(first, "contents")).sum()),
        pictures=None if same is None else len(same),
        examples=tuple(f"{a} = {b}" for a, b in (same or [])[:EXAMPLES]),
    )


def _column(tables: Side, name: str) -> NDArray[np.uint64]:
    """The hashes of all rows that have one."""
    hashes = [getattr(table.index, name)[rows] for table, rows in tables]
    joined = np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
    present: NDArray[np.uint64] = joined[joined != 0]
    return present


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that a row names. Equal ones are one file, or have the same bytes in their tables."""

    file: Path | int  # content_id of one that is inside the table
    size: int  # bytes
    name: str = field(compare=False)

    def content(self) -> int:
        """content_id of its bytes."""
        return self.file if isinstance(self.file, int) else content_id(self.file.read_bytes())


def named_pictures(tables: Side, progress: Callable[[int], object] = lambda rows: None) -> list[Picture]:
    """Every picture that the rows name and that exists, each once; `progress` gets the number of rows just read."""
    found: dict[Picture, None] = {}
    for table, rows in tables:
        for row in rows.tolist():
            progress(1)
            try:
                named = table.reading(row).pictures
            except RecordError:
                continue
            for each in named:
                picture = _picture(table, row, each)
                if picture is not None:
                    found.setdefault(picture)
    return list(found)


def _picture(table: Table, row: int, named: str | bytes) -> Picture | None:
    if isinstance(named, bytes):
        return Picture(content_id(named), len(named), f"{table.where(row)} of {table.path.name}")
    path = table.pictures.find(named)
    if path is None:
        return None
    name = table.where(row) if table.schema.dicom else named
    return Picture(path.resolve(), path.stat().st_size, f"{name} of {table.path.name}")


def same_pictures(first: Sequence[Picture], second: Sequence[Picture]) -> list[tuple[str, str]]:
    """Names of each of `second` that `first` has too, in both. Only files of one length are read."""
    known = {picture: picture.name for picture in first}
    lengths = {picture.size for picture in second}
    contents: dict[int, dict[int, str]] = {}  # size -> content -> name, read at the first look-up
    alike: dict[int, list[Picture]] = {}
    for picture in first:
        if picture.size in lengths:
            alike.setdefault(picture.size, []).append(picture)
    found = []
    for picture in second:
        name = known.get(picture)
        if name is None and picture.size in alike:
            if picture.size not in contents:
                contents[picture.size] = {other.content(): other.name for other in alike[picture.size]}
            name = contents[picture.size].get(picture.content())
        if name is not None:
            found.append((name, picture.name))
    return found
