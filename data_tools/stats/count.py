"""What `stats` counts of a block of records, and how blocks add up: what its workers run."""

import base64
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.common.records import Block, RecordItem, open_picture, read_block
from data_tools.common.text import caption_length
from vglm_train.data.record import RecordError
from vglm_train.image import FORMATS, ImageError, read_header

NAMED = 20  # damaged records of a cause that are named
SAMPLES = 24  # pictures on the page
THUMBNAIL = 160  # pixels

Keys = NDArray[np.int64]  # [n,2] a hash, and the row it stands in


@dataclass(slots=True)
class Counts:
    """Of any number of records. A Counter's keys are texts, as JSON has them."""

    records: int = 0
    bytes: int = 0
    counters: dict[str, Counter[str]] = field(default_factory=dict)
    damage: Counter[str] = field(default_factory=Counter)
    damaged: list[dict[str, str]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)  # those whose `key` is smallest

    def count(self, name: str, value: object, by: int = 1) -> None:
        self.counters.setdefault(name, Counter())[str(value)] += by

    def add(self, other: dict[str, Any]) -> None:
        """Another block's counts, as `to_json` gave them."""
        self.records += other["records"]
        self.bytes += other["bytes"]
        for name, counter in other["counters"].items():
            self.counters.setdefault(name, Counter()).update(counter)
        self.damage.update(other["damage"])
        for entry in other["damaged"]:
            if sum(each["cause"] == entry["cause"] for each in self.damaged) < NAMED:
                self.damaged.append(entry)
        self.samples = sorted([*self.samples, *other["samples"]], key=lambda sample: sample["key"])[:SAMPLES]

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def count_block(decode: bool, block: Block) -> bytes:
    """Counts, and the hashes by which duplicates are found, as a part. decode: every picture in full."""
    counts = Counts()
    images: list[tuple[int, int]] = []
    captions: list[tuple[int, int]] = []
    for item in read_block(block):
        counts.records += 1
        try:
            images.append((_count_item(item, counts, decode), item.row))
        except RecordError as error:
            counts.damage[error.cause] += 1
            counts.add({**Counts().to_json(), "damaged": [_damage(item, error)]})
            continue
        captions += [(caption_key(text), item.row) for texts in item.record.captions.values() for text in texts]
    out = io.BytesIO()
    text = np.frombuffer(json.dumps(counts.to_json(), ensure_ascii=False).encode("utf-8", "replace"), np.uint8)
    np.savez(out, counts=text, images=_keys(images), captions=_keys(captions))
    return out.getvalue()


def _keys(found: list[tuple[int, int]]) -> Keys:
    return np.array(found, np.int64).reshape(-1, 2)


def _damage(item: RecordItem, error: RecordError) -> dict[str, str]:
    return {"cause": error.cause, "id": item.id, "place": item.where, "reason": str(error)}


def caption_key(text: str) -> int:
    """63 bits of a caption, in small letters."""
    return int.from_bytes(hashlib.blake2b(text.casefold().encode("utf-8", "replace"), digest_size=8).digest()) >> 1


def _count_item(item: RecordItem, counts: Counts, decode: bool) -> int:
    """Count one item; returns its image_id. RecordError where it cannot be used: then only the record was counted."""
    record, data = item.record, item.image()
    try:
        header = read_header(data)
    except ImageError as error:
        raise RecordError(error.cause, str(error)) from None
    image_id, key = item.image_id(data), caption_key(item.id)
    shown = len(counts.samples) < SAMPLES or key < counts.samples[-1]["key"]
    picture = open_picture(data, None if decode else THUMBNAIL) if decode or shown else None
    _, width, height = header
    if shown and picture is not None:
        captions = {name: list(texts)[:2] for name, texts in record.captions.items()}
        sample = {"key": key, "id": item.id, "captions": captions, "size": f"{width} x {height}"}
        counts.add({**Counts().to_json(), "samples": [sample | {"jpeg": _thumbnail(picture)}]})
    counts.bytes += len(data)
    for name, value in (("width", width), ("height", height), ("aspect", f"{_aspect(width, height):.2f}"),
                        ("format", FORMATS[header.format][0]), ("source", record.source or "none"),
                        ("split", record.split or "none"),
                        ("languages", "+".join(sorted(record.captions)))):  # fmt: skip
        counts.count(name, value)
    _count_captions(record.captions, counts)
    return image_id


def _aspect(width: int, height: int) -> float:
    """Width over height, kept from 0.05 to 20: what lies beyond counts as that."""
    return min(max(width / height, 0.05), 20.0)


def _count_captions(captions: dict[str, tuple[str, ...]], counts: Counts) -> None:
    for language, texts in captions.items():
        counts.count(f"captions_per_record.{language}", len(texts))
        for text in texts:
            counts.count(f"characters.{language}", len("".join(text.split())))
            if language != "zh":
                counts.count(f"words.{language}", caption_length(text, language))


def _thumbnail(picture: Any) -> str:
    """Base64 of a small JPEG."""
    small = picture.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    return base64.b64encode(out.getvalue()).decode()


@dataclass(frozen=True, slots=True)
class Repeated:
    """Hashes that occur more than once: how many, how often altogether, and the most frequent as (hash, row, times)."""

    values: int
    occurrences: int
    most: tuple[tuple[int, int, int], ...]


def find_repeated(parts: Callable[[], Iterator[Keys]], total: int, held: int, most: int) -> Repeated:
    """Of keys that come in parts, without holding more than about `held` of them at a time.

    parts: a callable that gives an iterator over arrays [n,2], called once for each slice of the hashes' range.
    """
    slices = max(1, -(-total // held))
    values = occurrences = 0
    best: list[tuple[int, int, int]] = []
    for number in range(slices):
        chosen = [part[part[:, 0] % slices == number] for part in parts()]
        keys = np.concatenate([np.zeros((0, 2), np.int64), *chosen])
        _, first, times = np.unique(keys[:, 0], return_index=True, return_counts=True)
        again = np.flatnonzero(times > 1)
        values, occurrences = values + len(again), occurrences + int(times[again].sum())
        top = again[np.argsort(-times[again], kind="stable")[:most]]
        best += [(*keys[first[index]].tolist(), int(times[index])) for index in top]
        best = sorted(best, key=lambda each: (-each[2], each[1]))[:most]
    return Repeated(values, occurrences, tuple(best))
