"""Tar shards read at random: a table of where each sample lies, then its bytes by offset."""

import os
from typing import NamedTuple

import numpy as np

from vglm_train.data.index import LANGUAGES, index_path, read_index, read_spoken
from vglm_train.data.manifest import Shard
from vglm_train.data.recent import Recent
from vglm_train.data.tar import IMAGE_EXTENSIONS, Spoken, Table, walk_table
from vglm_train.errors import UserError

OPEN_FILES = 64  # of one reader


class DamagedSample(Exception):  # noqa: N818  (an event to be counted, not a fault)
    """A sample that cannot be had. `cause` is one of vglm_train.batch.CAUSES."""

    def __init__(self, cause: str, shard: str, key: str, reason: str) -> None:
        super().__init__(cause, shard, key, reason)  # as they are, for pickle
        self.cause, self.shard, self.key, self.reason = cause, shard, key, reason

    def __str__(self) -> str:
        return f"{self.shard}, key {self.key} ({self.cause}): {self.reason}"


class RawSample(NamedTuple):
    key: str
    image: bytes
    extension: str
    json: bytes
    more: tuple[bytes, ...] = ()  # further pictures of a dialogue, in order


class ShardReader:
    """Samples of any shard by index; keeps the tables of the last `capacity` shards, and fewer of them open."""

    def __init__(self, capacity: int) -> None:
        self._handles: Recent[Shard, int] = Recent(min(capacity, OPEN_FILES), _open, os.close)
        self._tables: Recent[Shard, Table] = Recent(capacity, self._checked_table)

    def read(self, shard: Shard, index: int) -> RawSample:
        """Sample `index` of `shard`. DamagedSample says what is wrong with it, UserError what is with the shard."""
        table = self._tables[shard]
        if index >= len(table):
            reason = f"the manifest counts {shard.samples} samples, the file ends after {len(table)}"
            raise DamagedSample("truncated", shard.name, f"sample {index}", reason)
        key = table.key(index)
        if table.cut and index == len(table) - 1:
            raise DamagedSample("truncated", shard.name, key, "the file ends within the sample")
        image, image_size, json, json_size = table.places[index].tolist()
        if image_size < 0:
            raise DamagedSample("image", shard.name, key, f"no member {key}.{{{','.join(IMAGE_EXTENSIONS)}}}")
        if json_size < 0:
            raise DamagedSample("record", shard.name, key, f"no member {key}.json")
        extension = IMAGE_EXTENSIONS[table.extensions[index]]
        try:
            handle = self._handles[shard]
            more = tuple(os.pread(handle, length, offset) for offset, length in table.further(index))
            first, record = os.pread(handle, image_size, image), os.pread(handle, json_size, json)
            return RawSample(key, first, extension, record, more)
        except OSError as error:
            raise UserError(f"{shard.path}: the shard cannot be read: {error.strerror}") from None

    def nth(self, shard: Shard, nth: int, language: str) -> int:
        """Index of the `nth` sample of `shard` that has a caption in `language`."""
        table = self._tables[shard]
        if table.languages is None:
            table, _ = self.spoken(shard)
        assert table.languages is not None
        spoken = np.flatnonzero(table.languages >> LANGUAGES.index(language) & 1)
        if nth >= len(spoken):
            counted = (shard.languages or {}).get(language, shard.samples)
            reason = f"the manifest counts {counted} samples with captions in {language}, the file has {len(spoken)}"
            raise DamagedSample("caption", shard.name, f"{language} sample {nth}", reason)
        return int(spoken[nth])

    def spoken(self, shard: Shard) -> tuple[Table, Spoken]:
        """The table of `shard` and what its records say; they are read where no index tells."""
        table = self._tables[shard]
        if table.spoken is None:
            table = self._tables.values[shard] = read_spoken(table, self._handles[shard])
        assert table.spoken is not None
        return table, table.spoken

    def _checked_table(self, shard: Shard) -> Table:
        table = read_index(index_path(shard.path), shard.sha256) or walk_table(self._handles[shard])
        if len(table) > shard.samples:
            raise UserError(
                f"{shard.path}: holds {len(table)} samples, its manifest says {shard.samples}. "
                f"Run python -m data_tools.check_shards {shard.path.parent} --write-manifest."
            )
        return table


def _open(shard: Shard) -> int:
    try:
        return os.open(shard.path, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{shard.path}: the shard cannot be opened any more: {error.strerror}") from None
