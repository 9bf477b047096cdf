"""The index of a shard, NAME.idx beside NAME.tar: its table, which languages its samples have, how long their texts.

One line of JSON, then the arrays of `TarIndex` as they lie in memory (little-endian); `more`, offsets of the further
pictures of dialogues, is the last, and left out where there are none. A reader takes it instead of walking
over the tar's headers if it names the shard's sha256 of the manifest; without it everything works, only later. Version
1 knows no lengths: where they are wanted the records are read.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from vglm_train.config.data import Language
from vglm_train.data.record import RecordError, parse
from vglm_train.data.shards.tar import IMAGE_EXTENSIONS, CaptionCounts, TarIndex, read_tar_index
from vglm_train.files import open_binary, read_at, replace_file

SUFFIX = ".idx"
VERSION = 2
ASCII_A_TOKEN = 4  # characters, about, of English; of other scripts one
MOST = 255  # captions of a language, and tokens of one: what a byte holds
LANGUAGES: tuple[str, ...] = get_args(Language)  # bit n of a sample's `languages` stands for entry n


def index_path(shard: Path) -> Path:
    return shard.with_suffix(SUFFIX)


def make_index(shard: Path) -> TarIndex:
    """The table of a tar with its languages, from the file itself: every record in it is read."""
    table = read_tar_index(shard)
    handle = open_binary(shard)
    try:
        return read_caption_counts(table, handle)
    finally:
        os.close(handle)


def read_caption_counts(table: TarIndex, handle: int) -> TarIndex:
    """The same table with `languages` and `caption_counts`; a record that cannot be read has no caption."""
    counts = np.zeros((len(table), len(LANGUAGES)), dtype=np.uint8)
    lengths = bytearray()
    for index, (offset, size) in enumerate(table.offsets[:, 2:].tolist()):
        for bit, captions in enumerate(_captions(read_at(handle, size, offset)) if size >= 0 else ()):
            counts[index, bit] = len(captions[:MOST])
            lengths += bytes(estimate_tokens(caption) for caption in captions[:MOST])
    languages = ((counts > 0) << np.arange(len(LANGUAGES))).sum(1).astype(np.uint8)
    caption_counts = _caption_counts(counts, np.frombuffer(bytes(lengths), np.uint8))
    return replace(table, languages=languages, caption_counts=caption_counts)


def estimate_tokens(text: str) -> int:
    """How many tokens a text has, without a tokenizer, up to MOST."""
    plain = len(text.encode("ascii", "ignore"))
    return min(MOST, -(-plain // ASCII_A_TOKEN) + len(text) - plain)


def count_languages(table: TarIndex) -> dict[str, int]:
    """Samples that have a caption or a dialogue, by language; languages that none has are left out."""
    assert table.languages is not None
    counts = {name: int((table.languages >> bit & 1).sum()) for bit, name in enumerate(LANGUAGES)}
    return {name: count for name, count in counts.items() if count}


def write_index(shard: Path, table: TarIndex, sha256: str) -> None:
    """Write the index of `shard`, whole or not at all. A tar that is damaged gets none: an index cannot say how."""
    assert table.languages is not None
    assert table.caption_counts is not None
    path = index_path(shard)
    if table.cut is not None or table.fault or table.lost or table.lacks:
        path.unlink(missing_ok=True)
        return
    head = {
        "version": VERSION,
        "sha256": sha256,
        "samples": len(table),
        "key_bytes": table.keys.dtype.itemsize if len(table) else 0,
        "extensions": IMAGE_EXTENSIONS,
        "languages": LANGUAGES,
        "captions": len(table.caption_counts.lengths),
    }
    if len(table.more):
        head["more"] = len(table.more)
    with replace_file(path) as out:
        out.write(json.dumps(head).encode() + b"\n")
        caption_counts = table.caption_counts.counts, table.caption_counts.lengths
        for array in (table.offsets.astype("<i8"), table.extensions, table.languages, table.keys, *caption_counts):
            out.write(array.tobytes() if len(table) else b"")
        out.write(table.more.astype("<i8").tobytes())


def read_index(path: Path, sha256: str) -> TarIndex | None:
    """The table in an index; None where there is none, or one of another shard, version or length."""
    try:
        return parse_index(path.read_bytes(), sha256)
    except OSError:
        return None


def parse_index(content: bytes, sha256: str) -> TarIndex | None:
    """The table in the bytes of an index, as `read_index`."""
    line, _, body = content.partition(b"\n")
    try:
        head = json.loads(line)
        if head["version"] not in (1, VERSION) or (head["sha256"], head["languages"]) != (sha256, list(LANGUAGES)):
            return None
        numbers = [IMAGE_EXTENSIONS.index(name) for name in head["extensions"]]
        samples, key_bytes, pictures = int(head["samples"]), int(head["key_bytes"]), int(head.get("more", 0))
        captions = None if head["version"] == 1 else int(head["captions"])
    except (ValueError, KeyError, TypeError):
        return None
    end = samples * (32 + 1 + 1 + key_bytes)
    own = end + (0 if captions is None else samples * len(LANGUAGES) + captions)
    if len(body) != own + 24 * pictures:
        return None
    offsets, extensions, languages = (
        _part(body, "<i8", 0, 4 * samples),
        _part(body, "u1", 32 * samples, samples),
        _part(body, "u1", 33 * samples, samples),
    )
    keys = _part(body, f"S{max(1, key_bytes)}", 34 * samples, samples)
    caption_counts = None
    if captions is not None:
        counts = _part(body, "u1", end, samples * len(LANGUAGES)).reshape(-1, len(LANGUAGES))
        caption_counts = _caption_counts(counts, _part(body, "u1", own - captions, captions))
    more = _part(body, "<i8", own, 3 * pictures).astype(np.int64, copy=False).reshape(-1, 3)
    offsets = offsets.astype(np.int64, copy=False).reshape(-1, 4)  # a view of the file's bytes
    if tuple(head["extensions"]) != IMAGE_EXTENSIONS:
        if (offsets[:, 1::2] < 0).any():
            return None  # an earlier version knew fewer extensions: what a sample seems to lack may be there
        extensions = np.array(numbers, np.uint8)[extensions]
    return TarIndex(keys, offsets, extensions, None, languages, caption_counts, more)


def _caption_counts(counts: NDArray[np.uint8], lengths: NDArray[np.uint8]) -> CaptionCounts:
    return CaptionCounts(counts, lengths, np.cumsum(counts.sum(1, dtype=np.int64)) - counts.sum(1, dtype=np.int64))


def _part(body: bytes, kind: str, offset: int, count: int) -> NDArray[Any]:
    return np.frombuffer(body, kind, count, offset) if count else np.zeros(0, kind)


def _captions(record: bytes) -> list[tuple[str, ...]]:
    """Captions, and turns as one text each, of each of LANGUAGES."""
    try:
        found = parse(record)
    except RecordError:
        return []
    turns = {found.language: tuple(f"{question} {answer}" for question, answer in found.turns)}
    return [found.captions.get(name, ()) + turns.get(name, ()) for name in LANGUAGES]
