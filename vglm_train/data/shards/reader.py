"""Tar shards read at random: a table of where each sample lies, then its bytes by offset."""

import os
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from vglm_train.config.data import Cache
from vglm_train.data.lru import LruCache
from vglm_train.data.record import DamagedSample, RawSample
from vglm_train.data.remote.cache import ShardCache
from vglm_train.data.remote.download import Unreachable
from vglm_train.data.shards.index import LANGUAGES, index_path, read_caption_counts, read_index
from vglm_train.data.shards.manifest import remake
from vglm_train.data.shards.shard import Shard
from vglm_train.data.shards.tar import IMAGE_EXTENSIONS, CaptionCounts, TarIndex, walk_tar
from vglm_train.data.tables.table import TableSlice
from vglm_train.errors import UserError
from vglm_train.files import open_binary, read_at

OPEN_FILES = 64  # of one reader


class ShardReader:
    """Samples of any shard by index; keeps the tables of the last `capacity` shards, and fewer of them open.

    `cache`: where remote shards are fetched to.
    """

    def __init__(self, capacity: int, cache: Cache | None = None) -> None:
        self.cache = ShardCache(cache or Cache())
        self._handles: LruCache[Shard, int] = LruCache(min(capacity, OPEN_FILES), self._open, os.close)
        self._indexes: LruCache[Shard, TarIndex] = LruCache(capacity, self._checked_index)

    def read(self, shard: Shard, index: int) -> RawSample:
        """Sample `index` of `shard`. DamagedSample says what is wrong with it, UserError what is with the shard."""
        if isinstance(shard, TableSlice):
            return shard.read(index)
        table = self._checked(shard, index)
        key = table.key(index)
        image, image_size, json, json_size = table.offsets[index].tolist()
        if image_size < 0 or index in table.lacks:
            reason = table.lacks.get(index, f"no member {key}.jpg, or of another extension of a picture")
            raise DamagedSample("image", shard.name, key, reason)
        spans = ((image, image_size), (json, json_size), *table.further(index))
        first, record, *more = self._bytes(shard, key, spans)
        return RawSample(key, first, IMAGE_EXTENSIONS[table.extensions[index]], record, tuple(more))

    def record_json(self, shard: Shard, index: int) -> bytes:
        """The record of sample `index` of `shard`, as JSON; its pictures are not read. Errors as of `read`."""
        if isinstance(shard, TableSlice):
            return shard.record_json(index)
        table = self._checked(shard, index)
        _, _, json, json_size = table.offsets[index].tolist()
        (record,) = self._bytes(shard, table.key(index), ((json, json_size),))
        return record

    def _checked(self, shard: Shard, index: int) -> TarIndex:
        """The table of `shard`, in which sample `index` has a whole record."""
        table = self._index_of(shard, f"sample {index}")
        if index >= len(table):
            reason = f"the manifest counts {shard.samples} samples, in the file {len(table)} are found"
            reason += f"; {table.lost}" if table.lost else ""
            raise DamagedSample("truncated", shard.name, f"sample {index}", reason)
        key = table.key(index)
        if index == table.cut:
            raise DamagedSample("truncated", shard.name, key, "the file ends within the sample")
        if table.offsets[index, 3] < 0:
            raise DamagedSample("record", shard.name, key, table.lacks.get(index, f"no member {key}.json"))
        return table

    def _bytes(self, shard: Shard, key: str, spans: Iterable[tuple[int, int]]) -> list[bytes]:
        """The bytes at each (offset, size)."""
        try:
            handle = self._handles[shard]
            return [read_at(handle, size, offset) for offset, size in spans]
        except Unreachable as error:
            raise DamagedSample("unreachable", shard.name, key, str(error)) from None
        except OSError as error:
            raise UserError(f"{shard.where}: the shard cannot be read: {error.strerror}") from None

    def nth(self, shard: Shard, nth: int, language: str) -> int:
        """Index of the `nth` sample of `shard` that has a caption in `language`."""
        if isinstance(shard, TableSlice):
            return shard.nth(nth, language)
        table = self._index_of(shard, f"{language} sample {nth}")
        if table.languages is None:
            table, _ = self.caption_counts(shard)
        assert table.languages is not None
        matching = np.flatnonzero(table.languages >> LANGUAGES.index(language) & 1)
        if nth >= len(matching):
            counted = (shard.languages or {}).get(language, shard.samples)
            reason = f"the manifest counts {counted} samples with captions in {language}, the file has {len(matching)}"
            raise DamagedSample("caption", shard.name, f"{language} sample {nth}", reason)
        return int(matching[nth])

    def keys_and_languages(self, shard: Shard) -> tuple[list[str], NDArray[np.uint8]]:
        """Keys of the samples of `shard`, and their languages as bits (see data/shards/index.py), 0 of damaged ones.

        A tar that is cut short has fewer than its manifest counts. DamagedSample where the shard cannot be fetched.
        """
        if isinstance(shard, TableSlice):
            return [shard.key(index) for index in range(shard.samples)], shard.table.index.languages[shard.rows]
        table = self._index_of(shard, "every sample")
        if table.languages is None:
            table, _ = self.caption_counts(shard)
        assert table.languages is not None
        return [table.key(index) for index in range(len(table))], table.languages

    def caption_counts(self, shard: Shard) -> tuple[TarIndex, CaptionCounts]:
        """The table of `shard` and its caption counts; the records are read where no index has them.

        DamagedSample where the shard cannot be fetched.
        """
        table = self._index_of(shard, "every sample")
        if table.caption_counts is None:
            try:
                table = self._indexes.values[shard] = read_caption_counts(table, self._handles[shard])
            except Unreachable as error:
                raise DamagedSample("unreachable", shard.name, "every sample", str(error)) from None
        assert table.caption_counts is not None
        return table, table.caption_counts

    def _index_of(self, shard: Shard, sample: str) -> TarIndex:
        """DamagedSample, named `sample`, where the shard cannot be had."""
        try:
            return self._indexes[shard]
        except Unreachable as error:
            raise DamagedSample("unreachable", shard.name, sample, str(error)) from None

    def _checked_index(self, shard: Shard) -> TarIndex:
        if shard.url is not None:
            self._handles[shard]  # fetched, its index too
        table = read_index(index_path(shard.path), shard.sha256) or walk_tar(self._handles[shard])
        if table.fault is not None:
            raise UserError(f"{shard.where}: {table.fault}.")
        if len(table) > shard.samples:
            raise UserError(
                f"{shard.where}: holds {len(table)} samples, its manifest says {shard.samples}: {remake(shard.where)}."
            )
        return table

    def _open(self, shard: Shard) -> int:
        if shard.url is not None:
            return self.cache.open(shard)
        try:
            return open_binary(shard.path)
        except OSError as error:
            raise UserError(f"{shard.path}: the shard cannot be opened any more: {error.strerror}") from None
