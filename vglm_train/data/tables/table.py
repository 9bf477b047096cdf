"""A table as a source: stretches of its rows stand for shards, and give the same samples as those of a tar do."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vglm_train.config.data import Source
from vglm_train.data.record import DamagedSample, RawSample, RecordError
from vglm_train.data.shards.index import LANGUAGES
from vglm_train.data.shards.manifest import Manifest, Shard
from vglm_train.data.tables import image_paths
from vglm_train.data.tables.base import describe_causes, keys_of
from vglm_train.data.tables.canonical import to_record
from vglm_train.data.tables.fields import Columns, resolve
from vglm_train.data.tables.index import STATES, TableIndex, build_index
from vglm_train.data.tables.readers import FIRST, folder_of, open_source
from vglm_train.errors import UserError

SHARD = 1000  # rows that stand for a shard

logger = logging.getLogger(__name__)


class Table:
    """A table on disk, its rows readable at random. `images`: the folder that its paths of pictures start from."""

    def __init__(self, source: Source) -> None:
        """UserError where keys or pictures are missing, or no row can be used."""
        assert source.table is not None
        self.path = Path(source.table)
        self.images = Path(source.images) if source.images else folder_of(self.path)
        self.file = open_source(source)
        first = list(islice(self.file.scan(), FIRST))
        readable = [row.values for row in first if row.values is not None]
        if not readable:
            what = f"none of its first {len(first)} rows can be read" if first else "it has no rows"
            raise UserError(f"{self.path}: {what}{describe_causes(first)}.")
        self.keys = keys_of(readable)
        self.columns: Columns = resolve(self.path, self.keys, source.fields)
        self._check_pictures(readable)
        self.index: TableIndex = build_index(self.file, self.columns, self.images)
        self._check_index()

    def _check_pictures(self, rows: Sequence[dict[str, Any]]) -> None:
        named: dict[str, None] = {}
        for row in rows:
            try:
                _, pictures = to_record(row, self.columns)
            except RecordError:
                continue
            named |= dict.fromkeys(name for name in pictures if isinstance(name, str))
        present = image_paths.check(self.path, self.images, list(named))
        if present < len(named):
            logger.warning(
                "%s: %d of the first %d pictures it names are not in %s",
                *(self.path, len(named) - present, len(named), self.images),
            )

    def _check_index(self) -> None:
        text = self.index.count("text")
        if not self.index.count("usable"):
            counts = ", ".join(f"{self.index.count(s)} {w}" for s, w in WORDS.items() if self.index.count(s))
            raise UserError(f"{self.path}: none of its {len(self.index)} rows can be used: {counts}.")
        if text:
            logger.info("%s: %d of %d rows name no picture and are left out", self.path, text, len(self.index))

    def read(self, shard: str, row: int) -> RawSample:
        """A row's record and pictures. DamagedSample where they cannot be had."""
        key, record, named = self._record(shard, row)
        contents = [each if isinstance(each, bytes) else self._picture(each, shard, key) for each in named]
        ending = Path(named[0]).suffix.lstrip(".").lower() if isinstance(named[0], str) else ""
        return RawSample(key, contents[0], ending or "jpg", json.dumps(record).encode(), tuple(contents[1:]))

    def record_json(self, shard: str, row: int) -> bytes:
        """A row's record as JSON; its pictures are not read. DamagedSample where there is none."""
        return json.dumps(self._record(shard, row)[1]).encode()

    def _record(self, shard: str, row: int) -> tuple[str, dict[str, Any], list[str | bytes]]:
        """Its key, what it says, and its pictures as it names them."""
        key = f"{self.path.stem}-{row}"
        try:
            record, named = to_record(self.file.row(*self.index.offsets[row].tolist()), self.columns)
        except RecordError as error:
            raise DamagedSample(error.cause, shard, key, str(error)) from None
        record.setdefault("id", key)
        return key, record, named

    def _picture(self, name: str, shard: str, key: str) -> bytes:
        path = image_paths.find(self.images, name)
        if path is None:
            raise DamagedSample("image", shard, key, f"no picture {self.images / name}")
        try:
            return path.read_bytes()
        except OSError as error:
            raise DamagedSample("image", shard, key, f"{path}: {error.strerror}") from None

    def usable(self, split: str | None = None) -> NDArray[np.int64]:
        """Rows that become samples: all but those without a picture; damaged ones too, so that they are counted.

        UserError where `split` has none, or the table has several and `split` is None.
        """
        pictured = self.index.states != STATES.index("text")
        names = self.index.split_names.tolist()
        counts = {name: int((pictured & (self.index.splits == number)).sum()) for number, name in enumerate(names)}
        counts = {name: count for name, count in counts.items() if name and count}
        listed = ", ".join(f"{name} ({count})" for name, count in counts.items())
        if split is not None and split not in counts:
            raise UserError(f"{self.path}: no rows of split {split!r}; it has {listed or 'no splits'}.")
        if split is None and len(counts) > 1:
            raise UserError(f"{self.path}: its rows are of several splits: {listed}. Set split in the source to one.")
        return np.flatnonzero(pictured if split is None else pictured & (self.index.splits == names.index(split)))

    def manifest(self, rows: NDArray[np.int64]) -> Manifest:
        """Those rows as shards."""
        shards = tuple(self._shard(rows[first : first + SHARD]) for first in range(0, len(rows), SHARD))
        counts = {name: sum((shard.languages or {}).get(name, 0) for shard in shards) for name in LANGUAGES}
        return Manifest(self.path, shards, {"captions": {name: count for name, count in counts.items() if count}})

    def _shard(self, rows: NDArray[np.int64]) -> "TableSlice":
        languages = self.index.languages[rows]
        return TableSlice(
            name=f"{self.path.name}, rows {rows[0]} to {rows[-1]}",
            path=self.path,
            samples=len(rows),
            bytes=int(self.index.offsets[rows, 1].sum()),
            sha256="",
            languages={name: int((languages >> bit & 1).sum()) for bit, name in enumerate(LANGUAGES)},
            rows=rows,
            table=self,
        )


WORDS = {"caption": "without an answer", "record": "that cannot be read", "text": "without a picture"}


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

    def nth(self, nth: int, language: str) -> int:
        """As ShardReader.nth."""
        has_language = self.table.index.languages[self.rows] >> LANGUAGES.index(language) & 1
        return int(np.flatnonzero(has_language)[nth])

    def length(self, index: int) -> int:
        """About how many tokens a sample says."""
        return int(self.table.index.lengths[self.rows[index]])
