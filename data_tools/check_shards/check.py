"""Reading one shard in full: what workers of `check_shards` run."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools.common.text import caption_length
from vglm_train.data.reader import ShardReader
from vglm_train.data.record import DamagedSample, RecordError, content_id, parse
from vglm_train.data.shards.index import count_languages, index_path, make_index, read_index, write_index
from vglm_train.data.shards.manifest import Shard
from vglm_train.data.shards.tar import ShardTable
from vglm_train.files import sha256
from vglm_train.image import ImageError, open_image

NAMED = 100  # damaged samples of one shard that are named; all are counted


@dataclass(slots=True)
class ShardCheck:
    """What a shard holds. `image_ids`: [samples] int64, -1 for a damaged one."""

    shard: Shard
    image_ids: NDArray[np.int64]
    damage: Counter[str] = field(default_factory=Counter)
    named: list[tuple[str, str, str]] = field(default_factory=list)  # cause, key, reason
    lengths: dict[str, Counter[int]] = field(default_factory=dict)  # language -> caption length -> captions
    index_agrees: bool = True  # or there is none of this shard


def check_sample(reader: ShardReader, index: int, found: ShardCheck) -> None:
    """Decode one sample as training would. Raises DamagedSample, RecordError or ImageError."""
    raw = reader.read(found.shard, index)
    record = parse(raw.json)
    for picture in (raw.image, *raw.more):
        open_image(picture)
    for language, captions in record.captions.items():
        lengths = found.lengths.setdefault(language, Counter())
        lengths.update(caption_length(caption, language) for caption in captions)
    found.image_ids[index] = content_id(raw.image) if record.image_id is None else record.image_id


def check_shard(folder: Path, write: bool, name: str) -> ShardCheck:
    """Hash a shard and decode every sample in it. `write`: also write its index anew."""
    path = folder / name
    table = make_index(path)
    shard = Shard(name, path, len(table), path.stat().st_size, sha256(path), count_languages(table))
    if write:
        write_index(path, table, shard.sha256)
    found = ShardCheck(shard, np.full(len(table), -1, dtype=np.int64))
    found.index_agrees = _same(read_index(index_path(path), shard.sha256), table)
    reader = ShardReader(capacity=1)
    for index in range(len(table)):
        try:
            check_sample(reader, index, found)
        except DamagedSample as error:
            _note(found, error.cause, error.key, error.reason)
        except RecordError as error:
            _note(found, error.cause, table.key(index), str(error))
        except ImageError as error:
            _note(found, "bomb" if error.cause == "bomb" else "image", table.key(index), str(error))
    return found


def _same(index: ShardTable | None, table: ShardTable) -> bool:
    """Whether an index of this very tar says what the tar says."""
    if index is None:
        return True
    names = ("keys", "offsets", "extensions", "languages", "more")
    return all(np.array_equal(getattr(index, name), getattr(table, name)) for name in names)


def _note(found: ShardCheck, cause: str, key: str, reason: str) -> None:
    found.damage[cause] += 1
    if len(found.named) < NAMED:
        found.named.append((cause, key, reason))
