"""Reading one shard in full: what workers of `check_shards` run."""

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools.common.text import caption_length
from vglm_train.data.record import DamagedSample
from vglm_train.data.rules import dialogue_of
from vglm_train.data.sample import StoredSample, use_sample
from vglm_train.data.shards.index import count_languages, index_path, make_index, read_index, write_index
from vglm_train.data.shards.reader import ShardReader
from vglm_train.data.shards.shard import Shard
from vglm_train.data.shards.tar import TarIndex
from vglm_train.files import sha256
from vglm_train.image import examine_image

NAMED = 100  # damaged samples of one shard that are named; all are counted


@dataclass(slots=True)
class ShardCheck:
    """What a shard holds. `image_ids`: [samples] int64, -1 for a damaged one."""

    shard: Shard
    image_ids: NDArray[np.int64]
    damage: Counter[str] = field(default_factory=Counter)
    named: list[tuple[str, str, str]] = field(default_factory=list)  # cause, key, reason
    lengths: dict[str, Counter[int]] = field(default_factory=dict)  # language -> caption length -> captions
    inferred: Counter[str] = field(default_factory=Counter)  # what was taken for granted in decoding -> pictures
    unread: dict[str, int] = field(default_factory=dict)  # what members that no sample uses are -> members
    fault: str | None = None  # why the file cannot be read as samples; then it has none here
    index_agrees: bool = True  # or there is none of this shard

    def note(self, cause: str, key: str, reason: str) -> None:
        """Count a damaged sample, and name it where not too many are."""
        self.damage[cause] += 1
        if len(self.named) < NAMED:
            self.named.append((cause, key, reason))


def check_sample(stored: StoredSample, check: ShardCheck) -> int:
    """Decode everything that training may use of a sample, count its captions -> its image_id.

    What is wrong is raised, for `use_sample`.
    """
    if stored.record.turns:
        dialogue_of(stored.record, images=len(stored.images))
    notes = [note for image in stored.images for note in examine_image(image).notes]
    check.inferred.update(notes)
    for language, captions in stored.record.captions.items():
        lengths = check.lengths.setdefault(language, Counter())
        lengths.update(caption_length(caption, language) for caption in captions)
    return stored.image_id


def check_shard(folder: Path, write: bool, name: str) -> ShardCheck:
    """Hash a shard and decode every sample in it. `write`: also write its index anew."""
    path = folder / name
    table = make_index(path)
    if table.fault is not None:
        shard = Shard(name, path, 0, path.stat().st_size, sha256(path))
        return ShardCheck(shard, np.zeros(0, dtype=np.int64), fault=table.fault)
    shard = Shard(name, path, len(table), path.stat().st_size, sha256(path), count_languages(table))
    if write:
        write_index(path, table, shard.sha256)
    check = ShardCheck(shard, np.full(len(table), -1, dtype=np.int64), unread=table.unread)
    check.index_agrees = _same(read_index(index_path(path), shard.sha256), table)
    reader = ShardReader(capacity=1)
    for index in range(len(table)):
        try:
            check.image_ids[index] = use_sample(reader, shard, index, partial(check_sample, check=check))
        except DamagedSample as damage:
            check.note(damage.cause, damage.key, damage.reason)
    if table.lost is not None:
        check.note("truncated", f"after {table.key(len(table) - 1) if len(table) else 'nothing'}", table.lost)
    return check


def _same(index: TarIndex | None, table: TarIndex) -> bool:
    """Whether an index of this very tar says what the tar says."""
    if index is None:
        return True
    names = ("keys", "offsets", "extensions", "languages", "more")
    return all(np.array_equal(getattr(index, name), getattr(table, name)) for name in names)
