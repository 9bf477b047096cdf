"""Where each sample of a tar lies: one walk over its headers.

The walk is our own because loader workers do it for shards that have no index beside them: 30 microseconds a sample
against the standard library's 155. Names are split into key and extension by webdataset's own rule.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from webdataset.tariterators import base_plus_ext

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
_NUMBERED = re.compile(rf"(\d{{1,6}})\.({'|'.join(IMAGE_EXTENSIONS)})")  # behind the key: pictures of a dialogue
BLOCK = 512  # bytes: headers and data of a tar lie on multiples of it
_REGULAR = b"0\0" + b"7"  # type flags of plain files
_DATALESS = b"123456"  # links, devices, folders
_EXTENDED = b"xL"  # pax and GNU headers that speak of the next member
_SKIPPED = b"gK"  # of all members, or of a link: nothing we need


class Member(NamedTuple):
    """A plain file in a tar."""

    name: str
    offset: int  # of its first byte
    size: int


class CaptionCounts(NamedTuple):
    """What the records of a shard say: how many captions, and how long. See data/shards/index.py."""

    counts: NDArray[np.uint8]  # [n,languages] captions
    lengths: NDArray[np.uint8]  # [captions] about how many tokens each has, sample by sample, language by language
    starts: NDArray[np.int64]  # [n] where in `lengths` a sample begins


@dataclass(frozen=True, slots=True)
class TarIndex:
    """Where the n samples of a shard lie, in the order of the file."""

    keys: NDArray[np.bytes_]  # [n] UTF-8
    offsets: NDArray[np.int64]  # [n,4] offset and size of image, then of JSON; size -1: there is none
    extensions: NDArray[np.uint8]  # [n] index into IMAGE_EXTENSIONS
    cut: bool  # the file ends in the middle: its last sample is damaged, and more may be lost
    languages: NDArray[np.uint8] | None = None  # [n] bits, see data/shards/index.py; None: not read yet
    caption_counts: CaptionCounts | None = None  # None: not read yet
    more: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 3), dtype=np.int64))
    # [m,3] sample, offset and size of every further picture, KEY.1.jpg and on, in the order of samples and numbers

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, index: int) -> str:
        return self.keys[index].decode("utf-8", "surrogateescape")

    def further(self, index: int) -> list[tuple[int, int]]:
        """Offset and size of each further picture of sample `index`."""
        first, last = np.searchsorted(self.more[:, 0], (index, index + 1))
        return [(offset, size) for _, offset, size in self.more[first:last].tolist()]


def read_tar_index(path: Path) -> TarIndex:
    """Walk over the headers of a tar. A damaged header ends the walk as the end of the file would."""
    handle = os.open(path, os.O_RDONLY)
    try:
        return walk_tar(handle)
    finally:
        os.close(handle)


def walk_tar(handle: int) -> TarIndex:
    """`read_tar_index` of an open file."""
    walk = _Walk(handle)
    keys: list[bytes] = []
    offsets: list[list[int]] = []
    extensions: list[int] = []
    numbered: list[tuple[int, int, Member, int]] = []  # sample, number, KEY.NUMBER.jpg, its extension
    for member in walk:
        key, extension = base_plus_ext(member.name)
        if key is None or key.rpartition("/")[2].startswith("__"):  # webdataset's own marks
            continue
        encoded = key.encode("utf-8", "surrogateescape")
        if not keys or keys[-1] != encoded:
            keys.append(encoded)
            offsets.append([0, -1, 0, -1])
            extensions.append(0)
        extension = extension.lower()
        if extension in IMAGE_EXTENSIONS and offsets[-1][1] < 0:
            offsets[-1][:2] = member.offset, member.size
            extensions[-1] = IMAGE_EXTENSIONS.index(extension)
        elif extension == "json":
            offsets[-1][2:] = member.offset, member.size
        elif (found := _NUMBERED.fullmatch(extension)) is not None:
            numbered.append((len(keys) - 1, int(found[1]), member, IMAGE_EXTENSIONS.index(found[2])))
    more = _assign_numbered(numbered, offsets, extensions)
    table = np.array(offsets, dtype=np.int64).reshape(-1, 4)
    incomplete = len(table) > 0 and bool((table[-1, 1::2] < 0).any())
    cut = walk.cut and (incomplete or walk.beyond)
    return TarIndex(np.array(keys, dtype=np.bytes_), table, np.array(extensions, dtype=np.uint8), cut, more=more)


def _assign_numbered(
    numbered: list[tuple[int, int, Member, int]], offsets: list[list[int]], extensions: list[int]
) -> NDArray[np.int64]:
    """Numbered pictures in order -> `TarIndex.more`; the first is the sample's picture where it has no KEY.jpg."""
    more: list[tuple[int, int, int]] = []
    for sample, _, member, extension in sorted(numbered):
        if offsets[sample][1] < 0:
            offsets[sample][:2], extensions[sample] = [member.offset, member.size], extension
        else:
            more.append((sample, member.offset, member.size))
    return np.array(more, dtype=np.int64).reshape(-1, 3)


class _Walk:
    """The plain files of a tar: v7, ustar, GNU and pax headers. Afterwards `cut` and `beyond` tell how it ended."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.end = os.fstat(handle).st_size
        self.cut = True  # no end mark was met
        self.beyond = False  # the last member's data reach beyond the end of the file

    def __iter__(self) -> Iterator[Member]:
        offset, name, length = 0, None, None  # what an extended header says of the next member
        while header := _header(os.pread(self.handle, BLOCK, offset)):
            if header.kind == b"":
                self.cut = False
                return
            data = offset + BLOCK
            size = 0 if header.kind in _DATALESS else header.size
            if header.kind in _EXTENDED:
                name, length = self._extended(header, data, name, length)
            elif header.kind not in _SKIPPED:
                size = size if length is None else length
                if header.kind in _REGULAR:
                    self.beyond = data + size > self.end
                    yield Member(header.name if name is None else name, data, size)
                name = length = None
            offset = data + -(-size // BLOCK) * BLOCK

    def _extended(
        self, header: "_Header", data: int, name: str | None, length: int | None
    ) -> tuple[str | None, int | None]:
        """Name and size that a GNU long name or a pax header gives for the next member."""
        content = os.pread(self.handle, header.size, data)
        if header.kind == b"L":
            return _text(content), length
        if b" path=" not in content and b" size=" not in content:  # webdataset's writer notes the time only
            return name, length
        while content:
            digits, _, rest = content.partition(b" ")
            if not digits.isdigit():
                break
            record, content = rest[: int(digits) - len(digits) - 2], content[int(digits) :]
            key, _, value = record.partition(b"=")
            if key == b"path":
                name = value.decode("utf-8", "surrogateescape")
            elif key == b"size":
                length = int(value)
        return name, length


class _Header(NamedTuple):
    name: str
    size: int
    kind: bytes  # one byte; none: the end mark


def _header(block: bytes) -> _Header | None:
    """A header block; None where there is none or it is damaged."""
    if len(block) < BLOCK:
        return None
    if not block.strip(b"\0"):
        return _Header("", 0, b"")
    try:
        checksum = int(block[148:156].strip(b"\0 "), 8)
        size = int.from_bytes(block[125:136]) if block[124] == 0x80 else int(block[124:136].strip(b"\0 ") or b"0", 8)
    except ValueError:
        return None
    if checksum != sum(block) - sum(block[148:156]) + 8 * 0x20:
        return None
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = f"{_text(block[345:500])}/{name}"
    return _Header(name, size, block[156:157])


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def members(handle: int) -> Iterator[Member]:
    """Every plain file of an open tar, in order. A damaged header ends it as the end of the file would."""
    yield from _Walk(handle)
