"""A table as a source: stretches of its rows stand for shards, and give the same samples as those of a tar do."""

import hashlib
import json
import logging
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vglm_train.config.data import Source
from vglm_train.data.record import DamagedSample, RawSample, RecordError
from vglm_train.data.shards.index import LANGUAGES
from vglm_train.data.shards.manifest import Manifest
from vglm_train.data.shards.shard import Shard
from vglm_train.data.tables.base import sample_key
from vglm_train.data.tables.canonical import RowReading
from vglm_train.data.tables.dicom_rows import picture_names, unnamed
from vglm_train.data.tables.index import STATES, TableIndex, build_index
from vglm_train.data.tables.readers import open_source
from vglm_train.data.tables.schema import find_schema
from vglm_train.data.tables.unread import describe_unread
from vglm_train.errors import UserError
from vglm_train.image.dicom import is_dicom

SHARD = 1000  # rows that stand for a shard

logger = logging.getLogger(__name__)


class Table:
    """A table on disk, its rows readable at random. Rows are numbered from 0 here; people are told `where` they are."""

    def __init__(self, source: Source) -> None:
        """UserError where keys or pictures are missing, or no row can be used."""
        assert source.table is not None
        self.path = Path(source.table)
        self.file = open_source(source)
        self.schema = find_schema(self.file, source)
        self.columns, self.pictures = self.schema.columns, self.schema.pictures
        self.index: TableIndex = build_index(self.file, self.columns, self.pictures, keep=not self.schema.dicom)
        self._check_index()

    def _check_index(self) -> None:
        if not self.index.count("usable"):
            raise UserError(
                f"{self.path}: none of its {len(self.index)} rows can be used: {self._left_out()}. "
                f"{self._first_error()}"
            )

    def _left_out(self) -> str:
        return ", ".join(f"{self.index.count(s)} {w}" for s, w in WORDS.items() if self.index.count(s))

    def _first_error(self) -> str:
        try:
            self.reading(0)
        except RecordError as error:
            return f"The first, {self.where(0)}: {error}."
        return ""

    def log_doubts(self) -> None:
        """Lines in the log about rows that are left out, texts that nobody reads, and what is doubtful of rows."""
        if left_out := self._left_out():
            logger.warning(
                "%s: of %d rows some cannot be used: %s. vglm data check_table says why",
                *(self.path, len(self.index), left_out),
            )
        if self.schema.unread:
            logger.warning("%s: %s", self.path, describe_unread(self.schema.unread, "fields.{}: {}"))
        notes = zip(self.index.note_rows.tolist(), self.index.note_names.tolist())
        if said := "; ".join(f"{rows} rows with {note}" for rows, note in notes):
            logger.warning("%s: %s. vglm data check_table names the first of each", self.path, said)

    def reading(self, row: int) -> RowReading:
        """A row as a record with its pictures. RecordError where it cannot be used."""
        offset, size, _ = self.index.positions[row].tolist()
        return self.schema.read(self.file.row(offset, size))

    def read(self, shard: str, row: int) -> RawSample:
        """A row's record and pictures. DamagedSample where they cannot be had."""
        key, record, named = self._record(shard, row)
        try:
            contents = [each if isinstance(each, bytes) else self.pictures.read(each)[1] for each in named]
        except RecordError as error:
            told = unnamed(error) if self.schema.dicom else error
            raise DamagedSample(error.cause, shard, key, str(told)) from None
        ending = Path(named[0]).suffix.lstrip(".").lower() if isinstance(named[0], str) else ""
        if any(map(is_dicom, contents)):
            record, ending = self._named_by_place(record, row, len(named)), "dcm"
        return RawSample(key, contents[0], ending or "jpg", json.dumps(record).encode(), tuple(contents[1:]))

    def record_json(self, shard: str, row: int) -> bytes:
        """A row's record as JSON; its pictures are not read. DamagedSample where there is none."""
        return json.dumps(self._record(shard, row)[1]).encode()

    def picture_files(self, shard: str, row: int) -> list[Path | bytes]:
        """A row's pictures as files, whether they are there or not, or as the bytes that it holds."""
        named = self._record(shard, row)[2]
        return [each if isinstance(each, bytes) else self.pictures.find(each) or Path(each) for each in named]

    def where(self, row: int) -> str:
        """How people are told which row it is: "line 12", "row 12", "train row 12"; see base.py."""
        return self.file.where(*self.index.positions[row].tolist())

    def key(self, row: int) -> str:
        return sample_key(self.path, self.where(row))

    def _record(self, shard: str, row: int) -> tuple[str, dict[str, Any], list[str | bytes]]:
        """Its key, what it says, and its pictures as it names them."""
        key = self.key(row)
        try:
            record, named, _ = self.reading(row)
        except RecordError as error:
            raise DamagedSample(error.cause, shard, key, str(error)) from None
        record.setdefault("id", key)
        if self.schema.dicom:
            record = self._named_by_place(record, row, len(named))
        return key, record, named

    def _named_by_place(self, record: dict[str, Any], row: int, pictures: int) -> dict[str, Any]:
        """The record with the row's place for its own names; a group is called by its first row."""
        names = picture_names(self.where(row), pictures)
        named: dict[str, Any] = {"id": self.key(row), "image": names[0] if len(names) == 1 else names}
        if "group" in record:
            named["group"] = f"group of {self.key(int(self._first_rows[row]))}"
        return record | named

    @cached_property
    def _first_rows(self) -> NDArray[np.int64]:
        """[rows] the first row of each row's group."""
        _, first, groups = np.unique(self.index.groups, return_index=True, return_inverse=True)
        rows: NDArray[np.int64] = first[groups]
        return rows

    def usable(self, split: str | None = None) -> NDArray[np.int64]:
        """Rows that become samples: all but those without a picture; damaged ones too, so that they are counted.

        UserError where `split` has none, or the table has several and `split` is None.
        """
        counts = self.splits()
        listed = ", ".join(f"{name} ({count})" for name, count in counts.items())
        if split is not None and split not in counts:
            raise UserError(f"{self.path}: no rows of split {split!r}; it has {listed or 'no splits'}.")
        if split is None and len(counts) > 1:
            raise UserError(f"{self.path}: its rows are of several splits: {listed}. Set split in the source to one.")
        return np.flatnonzero(self._pictured() & self.of_split(split))

    def splits(self) -> dict[str, int]:
        """Rows that become samples, by the split that they say they are of; not those that say none."""
        numbers = np.bincount(self.index.splits[self._pictured()], minlength=len(self.index.split_names))
        counts = zip(self.index.split_names.tolist(), numbers.tolist())
        return {name: count for name, count in counts if name and count}

    def of_split(self, split: str | None) -> NDArray[np.bool_]:
        """[rows] True: of that split; None: all."""
        names = self.index.split_names.tolist()
        rows: NDArray[np.bool_] = np.array(split is None) | (
            self.index.splits == (names.index(split) if split in names else -1)
        )
        return rows

    def _pictured(self) -> NDArray[np.bool_]:
        rows: NDArray[np.bool_] = self.index.states != STATES.index("text")
        return rows

    def manifest(self, rows: NDArray[np.int64]) -> Manifest:
        """Those rows as shards."""
        shards = tuple(self._shard(rows[first : first + SHARD]) for first in range(0, len(rows), SHARD))
        counts = {name: sum((shard.languages or {}).get(name, 0) for shard in shards) for name in LANGUAGES}
        return Manifest(self.path, shards, {"captions": {name: count for name, count in counts.items() if count}})

    def _shard(self, rows: NDArray[np.int64]) -> "TableSlice":
        languages = self.index.languages[rows]
        return TableSlice(
            name=f"{self.path.name}, {self.where(int(rows[0]))} to {self.where(int(rows[-1]))}",
            path=self.path,
            samples=len(rows),
            bytes=int(self.index.positions[rows, 1].sum()),
            sha256="",
            languages={name: int((languages >> bit & 1).sum()) for bit, name in enumerate(LANGUAGES)},
            rows=rows,
            table=self,
        )


WORDS = {"caption": "without an answer", "record": "that cannot be read as a record", "text": "without a picture"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSlice(Shard):
    """Rows of a table."""

    rows: NDArray[np.int64] = field(compare=False)  # [samples]
    table: Table = field(compare=False)

    def read(self, index: int) -> RawSample:
        """As ShardReader.read."""
        return self.table.read(self.name, int(self.rows[index]))

    def record_json(self, index: int) -> bytes:
        """As ShardReader.text."""
        return self.table.record_json(self.name, int(self.rows[index]))

    def identity(self) -> str:
        """As Shard.identity: the rows and what they say, however the file writes them."""
        index, digest = self.table.index, hashlib.sha256()
        for column in (self.rows, index.contents[self.rows], index.languages[self.rows], index.states[self.rows]):
            digest.update(np.ascontiguousarray(column).tobytes())
        return f"{self.samples} {digest.hexdigest()}"

    def key(self, index: int) -> str:
        return self.table.key(int(self.rows[index]))

    def nth(self, nth: int, language: str) -> int:
        """As ShardReader.nth."""
        has_language = self.table.index.languages[self.rows] >> LANGUAGES.index(language) & 1
        return int(np.flatnonzero(has_language)[nth])

    def length(self, index: int) -> int:
        """About how many tokens a sample says."""
        return int(self.table.index.lengths[self.rows[index]])
