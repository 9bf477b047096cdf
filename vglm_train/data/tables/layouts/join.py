"""Rows whose halves lie in two lists, of one file or of two.

One pass over each list notes where everything is. Of n rows and m notes about them only [n,3] and [m,3] numbers are
held in memory: the key of the row's id, offset and size.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vglm_train.data.record import RecordError
from vglm_train.data.tables.base import CAUSES, Row, TableFile, keys_of, state_of, unreadable

Values = dict[str, Any]
Ids = tuple[Any, ...]
FIRST = 100  # rows whose keys are the columns
CAUSE_NAMES = ("", *CAUSES)


@dataclass(frozen=True, slots=True)
class Half:
    """A list of rows, or of notes about rows. `ids`: of what it holds, a row's own id, or those of the rows that a note
    is about; `word`: what one is called."""

    file: TableFile
    word: str
    ids: Callable[[Values], Ids]


@dataclass(frozen=True, slots=True)
class Spans:
    """Of k (row, id) or (note, id) pairs."""

    places: NDArray[np.uint64]  # [k,3] key of the id, offset, size
    numbers: NDArray[np.int64]  # [k] as Row.number, of the half
    causes: NDArray[np.uint8]  # [k] index into CAUSE_NAMES; 0: it can be read


class JoinedTable:
    """A row of the first half with the notes of the second that name its id. A row's offset is its number.

    What has no partner, no id or one that was there before, and cannot be read, follows the rows, so that it is
    counted. Rows without a note stay: they lack what it would have said.
    """

    unit = "row"

    def __init__(
        self, path: Path, rows: Half, notes: Half, combine: Callable[[Values, list[Values]], Values], several: bool
    ) -> None:
        """`several`: a row may have more notes than one."""
        self.path, self.rows, self.notes, self.combine = path, rows, notes, combine
        own, about = _spans(rows), _spans(notes)
        _mark_repeated(own)
        known = own.places[own.causes == 0, 0]
        about.causes[(about.causes == 0) & ~np.isin(about.places[:, 0], known)] = CAUSE_NAMES.index("partner")
        if not several:
            _mark_repeated(about)
        kept = about.places[about.causes == 0]
        self.own = own
        self.about = kept[np.argsort(kept[:, 0], kind="stable")]  # [m,3] in the order of keys
        self.left = Spans(*(part[about.causes != 0] for part in (about.places, about.numbers, about.causes)))

    @property
    def columns(self) -> tuple[str, ...]:
        return keys_of(row.values for row in islice(self.scan(), FIRST))

    @property
    def size(self) -> int:
        return len(self.own.causes) + len(self.left.causes)

    @property
    def identity(self) -> str:
        halves = " ".join(f"{half.file.identity} {state_of(half.file.path)}" for half in (self.rows, self.notes))
        return f"{self.combine.__name__} {halves}"

    def scan(self) -> Iterator[Row]:
        for number in range(self.size):
            cause = self._cause(number)
            values = None
            if cause is None:
                try:
                    values = self._row(number)
                except RecordError:
                    cause = "json"
            yield Row(number, 1, values, number + 1, cause)

    def row(self, offset: int, size: int) -> Values:
        cause = self._cause(offset)
        if cause is not None:
            raise unreadable(cause)
        return self._row(offset)

    def where(self, offset: int, size: int, number: int) -> str:
        """By its name within its half."""
        half, spans, at = self._half_of(offset)
        _, offset, size = spans.places[at].tolist()
        return f"{half.word} {half.file.where(offset, size, int(spans.numbers[at]))}"

    def _cause(self, number: int) -> str | None:
        """Why it cannot be read."""
        _, spans, at = self._half_of(number)
        return CAUSE_NAMES[spans.causes[at]] or None

    def _half_of(self, number: int) -> tuple[Half, Spans, int]:
        """The half that a row, or what follows the rows, is of, and where it stands in the spans."""
        rows = len(self.own.causes)
        return (self.rows, self.own, number) if number < rows else (self.notes, self.left, number - rows)

    def _row(self, number: int) -> Values:
        key, *place = self.own.places[number].tolist()
        first, last = (np.searchsorted(self.about[:, 0], np.uint64(key), side) for side in ("left", "right"))
        notes = [self.notes.file.row(*each) for each in self.about[first:last, 1:].tolist()]
        return self.combine(self.rows.file.row(*place), notes)


def _spans(half: Half) -> Spans:
    """One pass over a half. What names no id has a span of its own, with a cause."""
    places, numbers, causes = array("Q"), array("q"), array("B")
    for row in half.file.scan():
        ids = () if row.values is None else half.ids(row.values)
        for key in [_key(each) for each in ids] or [0]:
            places.extend((key, row.offset, row.size))
            numbers.append(row.number)
            cause = row.cause or "json" if row.values is None else "" if key else "partner"
            causes.append(CAUSE_NAMES.index(cause))
    return Spans(
        np.array(places, dtype=np.uint64).reshape(-1, 3),
        np.array(numbers, dtype=np.int64),
        np.array(causes, dtype=np.uint8),
    )


def _mark_repeated(spans: Spans) -> None:
    """All but the first of an id."""
    good = np.flatnonzero(spans.causes == 0)
    _, first = np.unique(spans.places[good, 0], return_index=True)
    again = np.ones(len(good), dtype=bool)
    again[first] = False
    spans.causes[good[again]] = CAUSE_NAMES.index("id")


def _key(identity: Any) -> int:
    """64 bits that stand for an id; 42, 42.0 and "42" are one, as the files of one data set mix them. 0: it is none."""
    if isinstance(identity, float) and identity.is_integer():
        identity = int(identity)
    if not isinstance(identity, str | int) or isinstance(identity, bool) or identity == "":
        return 0
    return int.from_bytes(hashlib.blake2b(str(identity).encode("utf-8", "replace"), digest_size=8).digest()) or 1
