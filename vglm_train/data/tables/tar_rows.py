"""Samples of other tools' tars (webdataset's, img2dataset's) as rows: a picture with texts and JSON beside it."""

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any

from braceexpand import braceexpand

from vglm_train.data.shards.tar import RECORD, TarContents, TarSample, read_contents
from vglm_train.data.shards.tar_members import Member
from vglm_train.data.tables.base import Row, keys_of
from vglm_train.errors import UserError

IMAGE = "image"  # the column of the picture, or of a list of pictures; a key of the JSON with this name gives way
KEY = "__key__"
FIRST = 100  # samples whose keys are the columns
SHOWN = 6  # kinds of members that are named

_TEXT = re.compile(r"(.*\.)?(txt|text|caption|cls)")
_SPLIT = re.compile(r"(?<![a-z])(train|validation|valid|val|dev|test)(?:ing)?(?![a-z])")
_SPLITS = {"valid": "validation", "val": "validation", "dev": "validation"}  # as `datasets` calls them

logger = logging.getLogger(__name__)


def find_tars(source: str) -> list[Path] | None:
    """The tars that a path, a folder, a pattern or a brace list stands for, by name; None where it stands for none."""
    path = Path(source)
    if path.is_file():
        return [path] if path.suffix.lower() == ".tar" else None
    if path.is_dir():
        found = [each for each in path.rglob("*") if each.suffix.lower() == ".tar"]
    else:
        found = [Path(name) for pattern in _expanded(source) for name in glob(pattern, recursive=True)]
    return sorted(found) if found and all(each.suffix.lower() == ".tar" for each in found) else None


def _expanded(source: str) -> list[str]:
    try:
        return list(braceexpand(source))
    except ValueError:
        return [source]


class TarRows:
    """Rows of tars: under `image` the picture's bytes, a text under its extension ("txt"), JSON under its own keys.

    Every sample is a row, wherever it stands and whatever it lacks.
    """

    unit = "B"

    def __init__(self, tars: list[Path], split: str | None = None) -> None:
        """`split`: only tars whose path names it. UserError where there is none."""
        self.tars = [tar for tar in tars if split in (None, _split_of(tar))]
        if not self.tars:
            names = sorted({str(_split_of(tar)) for tar in tars})
            raise UserError(f"no tar of split {split!r}; the paths of the tars name {', '.join(names)}")
        self.size = sum(tar.stat().st_size for tar in self.tars)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return keys_of(islice((row.values for row in self._rows(Counter()) if row.values is not None), FIRST))

    def scan(self) -> Iterator[Row]:
        unread: Counter[str] = Counter()
        yield from self._rows(unread)
        if unread:
            named = ", ".join(f"{what} {count}" for what, count in unread.most_common(SHOWN))
            logger.warning("members of the tars that are not read: %s", named)

    def _rows(self, unread: Counter[str]) -> Iterator[Row]:
        start = 0
        for tar in self.tars:
            try:
                with open(tar, "rb") as file:
                    yield from _read(tar, file.fileno(), start, unread)
            except OSError as error:
                raise UserError(f"{tar}: the tar cannot be read: {error.strerror}") from None
            start += tar.stat().st_size


def _read(tar: Path, handle: int, start: int, unread: Counter[str]) -> Iterator[Row]:
    """`start`: bytes of the tars before, for the progress bar."""
    contents = read_contents(handle)
    if (fault := contents.fault()) is not None:
        raise UserError(f"{tar}: {fault}.")
    if not contents.samples:
        logger.warning("%s: holds no sample", tar)
    unread.update(contents.unread)
    cut, split = contents.cut(), _split_of(tar)
    for number, sample in enumerate(contents.samples):
        offset = start + max(member.offset for member in sample.members.values())
        where = f"{tar.name} {sample.key}"
        if number == cut and _is_torn(contents, sample):
            yield Row(offset, 0, None, where, "truncated", split)
            continue
        values, cause = _values(handle, sample, unread)
        yield Row(offset, 0, values, where, cause, split)
    if contents.walk.lost is not None:
        yield Row(start, 0, None, f"{tar.name}, behind its last sample", "truncated", split)


def _is_torn(contents: TarContents, sample: TarSample) -> bool:
    """Whether the sample within which the file ends lacks bytes, or its picture; it needs no JSON here."""
    return contents.beyond or sample.image() is None or len(sample.members) == 1


def _values(handle: int, sample: TarSample, unread: Counter[str]) -> tuple[dict[str, Any] | None, str | None]:
    """A row's values, or what is wrong with it."""
    values: dict[str, Any] = {KEY: sample.key}
    image = sample.image()
    pictures = ([] if image is None else [image[1]]) + sample.further()
    texts = {name: member for name, member in sample.members.items() if name == RECORD or _TEXT.fullmatch(name)}
    if sample.doubt:
        return None, "doubt"
    if any(member.lack is not None for member in (*pictures, *texts.values())):
        return None, "link"
    for name, member in texts.items():
        try:
            text = _bytes(handle, member).decode("utf-8-sig")
            values |= _fields(text) if name == RECORD else {name: text}
        except UnicodeDecodeError:
            return None, "encoding"
        except (ValueError, RecursionError):
            return None, "json"
    used = {*texts, *sample.numbered(), *(image or ())[:1]}
    unread.update(f".{name}" for name in sample.members if name not in used)
    values.pop(IMAGE, None)
    if pictures:
        found = [_bytes(handle, member) for member in pictures]
        values[IMAGE] = found if len(found) > 1 else found[0]
    return values, None


def _fields(text: str) -> dict[str, Any]:
    fields = json.loads(text, strict=False)
    if not isinstance(fields, dict):
        raise ValueError(f"a record must be a JSON object, found {type(fields).__name__}")
    return fields


def _bytes(handle: int, member: Member) -> bytes:
    return os.pread(handle, member.size, member.offset)


def _split_of(tar: Path) -> str | None:
    """What the tar's name, else its folder's, says: train, validation or test."""
    for name in (tar.stem, tar.parent.name):
        if (found := _SPLIT.search(name.lower())) is not None:
            return _SPLITS.get(found[1], found[1])
    return None
