"""Tars of other tools as a table, such as img2dataset's: KEY.jpg, KEY.txt and KEY.json are a row."""

import json
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from vglm_train.data.shards.tar import RECORD, TarContents, TarSample, read_contents
from vglm_train.data.shards.tar_members import Member
from vglm_train.data.tables.base import Row, keys_of, unreadable
from vglm_train.data.tables.layouts.splits import split_of
from vglm_train.errors import UserError
from vglm_train.files import read_at

Values = dict[str, Any]
Place = tuple[int, int]  # offset and size
NONE: Place = (0, -1)
TEXTS = ("txt", "caption", "text")
FIRST = 100  # rows whose keys are the columns


class TarTable:
    """Samples of tars. One pass over their headers notes where each member lies; a row's offset is its number.

    A row is what KEY.json says, with the picture's bytes as `image` (a list where there is KEY.1.jpg as well), the text
    of KEY.txt as `caption`, and, unless KEY.json has them, KEY as `id` and the split that the tar's name says it is of.
    """

    unit = "row"

    def __init__(self, path: Path, tars: Sequence[Path]) -> None:
        """`path`: what was named; `tars`: the files. UserError where one is no tar, or they hold no sample."""
        self.path, self.tars = path, list(tars)
        folder = path if path.is_dir() else path.parent
        self.splits = [split_of(os.path.relpath(tar, folder)) for tar in self.tars]
        places, more, keys, ends = array("q"), array("q"), bytearray(), array("q", [0])
        self.causes: dict[int, str] = {}  # row -> why it cannot be read
        for number, tar in enumerate(self.tars):
            for sample in _samples(tar):
                first, *rest = sample.pictures or [NONE]
                if sample.cause:
                    self.causes[len(ends) - 1] = sample.cause
                places.extend((number, *first, *sample.text, *sample.json))
                more.extend(each for place in rest for each in (len(ends) - 1, *place))
                keys += sample.key.encode("utf-8", "surrogateescape")
                ends.append(len(keys))
        self.places = np.array(places, dtype=np.int64).reshape(-1, 7)  # [n,7] tar, then picture, text and JSON
        self.more = np.array(more, dtype=np.int64).reshape(-1, 3)  # [m,3] row, further picture
        self.keys, self.ends = bytes(keys), np.array(ends, dtype=np.int64)
        if not len(self.places):
            raise UserError(f"{path}: holds no sample; one is KEY.jpg with KEY.txt or KEY.json.")

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return keys_of(row.values for row in islice(self.scan(), FIRST))

    @property
    def size(self) -> int:
        return len(self.places)

    @property
    def identity(self) -> str:
        return f"{type(self).__name__} {len(self.tars)}"

    def scan(self) -> Iterator[Row]:
        for number in range(len(self.places)):
            try:
                yield Row(number, 1, self._row(number), number + 1)
            except _Unreadable as error:
                yield Row(number, 1, None, number + 1, str(error))

    def row(self, offset: int, size: int) -> Values:
        try:
            return self._row(offset)
        except _Unreadable as error:
            raise unreadable(str(error)) from None

    def where(self, offset: int, size: int, number: int) -> str:
        return f"{self.tars[self.places[offset, 0]].name} {self._key(offset)}"

    def _key(self, number: int) -> str:
        return self.keys[self.ends[number] : self.ends[number + 1]].decode("utf-8", "replace")

    def _row(self, number: int) -> Values:
        if number in self.causes:
            raise _Unreadable(self.causes[number])
        tar, *numbers = self.places[number].tolist()
        picture, text, record = zip(numbers[::2], numbers[1::2])
        first, last = np.searchsorted(self.more[:, 0], (number, number + 1))
        spans = [picture, *map(tuple, self.more[first:last, 1:].tolist())]
        *pictures, caption, content = _read(self.tars[tar], [*spans, text, record])
        values = {} if content is None else _object(content)
        if caption is not None:
            values["caption"] = _text(caption)
        values["image"] = pictures if len(pictures) > 1 else pictures[0]
        usual = {"id": self._key(number), "split": self.splits[tar]}
        return values | {key: held for key, held in usual.items() if held and not values.get(key)}


class _Unreadable(Exception):  # noqa: N818  (an observation)
    """A row that cannot be read. Its text is a key of CAUSES."""


@dataclass(slots=True)
class _Sample:
    """Where the members of a sample lie."""

    key: str
    pictures: list[Place] = field(default_factory=list)
    text: Place = NONE
    json: Place = NONE
    cause: str = ""  # why it cannot be read: a key of CAUSES


def _samples(tar: Path) -> Iterator[_Sample]:
    """The samples of a tar, in its order. What is behind a damaged header is one more, which cannot be read."""
    contents = _contents(tar)
    cut = contents.cut()
    for number, sample in enumerate(contents.samples):
        *whole, last = _undotted(sample)
        torn = number == cut and (contents.beyond or last.image() is None or len(last.members) == 1)
        yield from (_sample(part, False) for part in whole)
        yield _sample(last, torn)
    if contents.walk.lost is not None:
        yield _Sample("behind the last sample", cause="truncated")


def _undotted(sample: TarSample) -> list[TarSample]:
    """The samples that this one is, where keys hold dots: KEY.a.jpg and KEY.b.jpg were taken for members of KEY."""
    if not sample.dotted():
        return [replace(sample, key=sample.key.removeprefix("./"))]
    parts: dict[str, dict[str, Member]] = {}
    for name, member in sample.members.items():
        stem, _, extension = name.rpartition(".")
        parts.setdefault(stem, {})[extension] = member
    key = sample.key.removeprefix("./")
    return [TarSample(f"{key}.{stem}" if stem else key, own) for stem, own in parts.items()]


def _sample(sample: TarSample, torn: bool) -> _Sample:
    image, text = sample.image(), next((sample.members[name] for name in TEXTS if name in sample.members), None)
    pictures = ([] if image is None else [image[1]]) + sample.further()
    record = sample.members.get(RECORD)
    if torn or sample.doubt:
        return _Sample(sample.key, cause="truncated" if torn else "doubt")
    if any(member is not None and member.lack is not None for member in (*pictures, text, record)):
        return _Sample(sample.key, cause="link")
    return _Sample(sample.key, [(each.offset, each.size) for each in pictures], _place(text), _place(record))


def _place(member: Member | None) -> Place:
    return NONE if member is None else (member.offset, member.size)


def _contents(tar: Path) -> TarContents:
    try:
        with open(tar, "rb") as file:
            contents = read_contents(file.fileno())
    except OSError as error:
        raise UserError(f"{tar}: cannot be read: {error.strerror}") from None
    if contents.walk.fault is not None:
        raise UserError(f"{tar}: {contents.walk.fault}.")
    return contents


def _read(tar: Path, places: Sequence[Place]) -> list[bytes | None]:
    """The bytes at each place; None for NONE."""
    try:
        with open(tar, "rb") as file:
            found = [None if place == NONE else read_at(file.fileno(), place[1], place[0]) for place in places]
    except OSError as error:
        raise UserError(f"{tar}: cannot be read any more: {error.strerror}") from None
    if any(content is not None and len(content) < size for content, (_, size) in zip(found, places)):
        raise _Unreadable("truncated")
    return found


def _object(content: bytes) -> Values:
    try:
        value = json.loads(content, strict=False)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise _Unreadable("json") from None
    if not isinstance(value, dict):
        raise _Unreadable("json")
    return value


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise _Unreadable("encoding") from None
