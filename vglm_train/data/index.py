"""The index of a shard, NAME.idx beside NAME.tar: its table, and which samples are in which language.

One line of JSON, then the arrays of `Table` as they lie in memory (little-endian); `more`, places of the further
pictures of dialogues, is the last, and left out where there are none. A reader takes it instead of walking
over the tar's headers if it names the shard's sha256 of the manifest; without it everything works, only later.
"""

import json
import os
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from vglm_train.config.data import Language
from vglm_train.data.record import RecordError, parse
from vglm_train.data.tar import IMAGE_EXTENSIONS, Table, read_table

SUFFIX = ".idx"
VERSION = 1
LANGUAGES: tuple[str, ...] = get_args(Language)  # bit n of a sample's `languages` stands for entry n


def index_path(shard: Path) -> Path:
    return shard.with_suffix(SUFFIX)


def make_index(shard: Path) -> Table:
    """The table of a tar with its languages, from the file itself: every record in it is read."""
    table = read_table(shard)
    handle = os.open(shard, os.O_RDONLY)
    try:
        return find_languages(table, handle)
    finally:
        os.close(handle)


def find_languages(table: Table, handle: int) -> Table:
    """The same table with `languages`; a record that cannot be read has none."""
    found = np.zeros(len(table), dtype=np.uint8)
    for index, (offset, size) in enumerate(table.places[:, 2:].tolist()):
        if size >= 0:
            found[index] = _bits(os.pread(handle, size, offset))
    return Table(table.keys, table.places, table.extensions, table.cut, found, table.more)


def count_languages(table: Table) -> dict[str, int]:
    """Samples that have a caption or a dialogue, by language; languages that none has are left out."""
    assert table.languages is not None
    counts = {name: int((table.languages >> bit & 1).sum()) for bit, name in enumerate(LANGUAGES)}
    return {name: count for name, count in counts.items() if count}


def write_index(shard: Path, table: Table, sha256: str) -> None:
    """Write the index of `shard`, whole or not at all. A tar that ends in the middle gets none."""
    assert table.languages is not None
    path = index_path(shard)
    if table.cut:
        path.unlink(missing_ok=True)
        return
    head = {
        "version": VERSION,
        "sha256": sha256,
        "samples": len(table),
        "key_bytes": table.keys.dtype.itemsize if len(table) else 0,
        "extensions": IMAGE_EXTENSIONS,
        "languages": LANGUAGES,
    }
    if len(table.more):
        head["more"] = len(table.more)
    aside = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    with open(aside, "wb") as out:
        out.write(json.dumps(head).encode() + b"\n")
        for array in (table.places.astype("<i8"), table.extensions, table.languages, table.keys):
            out.write(array.tobytes() if len(table) else b"")
        out.write(table.more.astype("<i8").tobytes())
        out.flush()
        os.fsync(out.fileno())
    os.replace(aside, path)


def read_index(path: Path, sha256: str) -> Table | None:
    """The table in an index; None where there is none, or one of another shard, version or length."""
    try:
        return parse_index(path.read_bytes(), sha256)
    except OSError:
        return None


def parse_index(content: bytes, sha256: str) -> Table | None:
    """The table in the bytes of an index, as `read_index`."""
    line, _, body = content.partition(b"\n")
    try:
        head = json.loads(line)
        known = (VERSION, sha256, list(IMAGE_EXTENSIONS), list(LANGUAGES))
        if (head["version"], head["sha256"], head["extensions"], head["languages"]) != known:
            return None
        samples, key_bytes, pictures = int(head["samples"]), int(head["key_bytes"]), int(head.get("more", 0))
    except (ValueError, KeyError, TypeError):
        return None
    own = samples * (32 + 1 + 1 + key_bytes)
    if len(body) != own + 24 * pictures:
        return None
    places, extensions, languages = (
        _part(body, "<i8", 0, 4 * samples),
        _part(body, "u1", 32 * samples, samples),
        _part(body, "u1", 33 * samples, samples),
    )
    keys = _part(body, f"S{max(1, key_bytes)}", 34 * samples, samples)
    more = _part(body, "<i8", own, 3 * pictures).astype(np.int64).reshape(-1, 3)
    return Table(keys, places.astype(np.int64).reshape(-1, 4), extensions, False, languages, more)


def _part(body: bytes, kind: str, offset: int, count: int) -> NDArray:
    return np.frombuffer(body, kind, count, offset) if count else np.zeros(0, kind)


def _bits(record: bytes) -> int:
    try:
        spoken = parse(record).spoken
    except RecordError:
        return 0
    return sum(1 << bit for bit, name in enumerate(LANGUAGES) if name in spoken)
