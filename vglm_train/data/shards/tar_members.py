"""The members of a tar in order: one walk over its headers.

The walk is our own because loader workers do it for shards that have no index beside them: the standard library takes
five times as long. It reads v7, ustar, GNU and pax headers, and goes on behind an end mark where more members follow,
as in tars that were put one behind the other. Links stand for what they lead to within the tar.
"""

import os
import posixpath
from collections.abc import Iterator
from typing import NamedTuple

from vglm_train.file_kind import AGAIN, kind_of
from vglm_train.files import read_at

BLOCK = 512  # bytes: headers and data of a tar lie on multiples of it
_REGULAR = b"0\0" + b"7"  # type flags of plain files
_LINKS = b"12"  # to another member's data, and to a name
_DATALESS = b"123456"  # links, devices, folders
_EXTENDED = b"xLK"  # pax and GNU headers that speak of the next member
_SKIPPED = b"g"  # of all members: nothing we need
_SPARSE = b"S"  # GNU's file with holes
_STRETCH = 1 << 20  # bytes of zeros that are passed in one go


class Member(NamedTuple):
    """A file in a tar. `lack`: why its bytes cannot be had; then it has none."""

    name: str
    offset: int  # of its first byte
    size: int
    lack: str | None = None
    part: int = 0  # of tars that were put one behind the other, which one it is of


class TarWalk:
    """The members of an open tar. After iterating, the other fields tell how the walk ended."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.size = os.fstat(handle).st_size
        self.fault: str | None = None  # the file is no tar: what it is instead, and what to do
        self.cut = True  # no end mark was met
        self.beyond = False  # the last member's data reach beyond the end of the file
        self.lost: str | None = None  # where the rest cannot be read, though the file goes on
        self.part = 0

    def members(self) -> list[Member]:
        """All of them, links resolved."""
        found = list(self._walk())
        if all(link is None for _, link in found):
            return [member for member, _ in found]
        targets = {(member.part, posixpath.normpath(member.name)): member for member, link in found if link is None}
        return [member if link is None else _follow(member, link, targets) for member, link in found]

    def _walk(self) -> Iterator[tuple[Member, str | None]]:
        """Each file, or link with the name that it leads to."""
        offset, told = 0, _Told()
        while block := read_at(self.handle, BLOCK, offset):
            header = _header(block)
            if header is None:
                self._end_at(offset, len(block))
                return
            if header.kind == b"":
                self.cut, offset = False, self._next_header(offset)
                self.part += 1
                continue
            self.cut, data = True, offset + BLOCK
            size = 0 if header.kind in _DATALESS else header.size
            if header.kind in _EXTENDED:
                told = told.with_header(header.kind, read_at(self.handle, header.size, data))
            elif header.kind not in _SKIPPED:
                size = size if told.size is None else told.size
                if header.kind == _SPARSE:
                    data = self._behind_map(block, data)
                if header.kind in _REGULAR or header.kind in _SPARSE:
                    self.beyond = data + size > self.size
                    sparse = "it is stored with holes (tar --sparse)"
                    lack = sparse if told.sparse or header.kind == _SPARSE else None
                    yield Member(told.name or header.name, data, size, lack, self.part), None
                elif header.kind in _LINKS:
                    yield self._link(header, told)
                told = _Told()
            offset = data + -(-size // BLOCK) * BLOCK

    def _link(self, header: "_Header", told: "_Told") -> tuple[Member, str]:
        """With the name of what it leads to: a hard link's within the tar, a symbolic one's beside itself."""
        name, target = told.name or header.name, told.link or header.link
        member = Member(name, 0, 0, f"it is a link to {target}, which is not in the tar", self.part)
        return member, target if header.kind == b"1" else posixpath.join(posixpath.dirname(name), target)

    def _behind_map(self, block: bytes, offset: int) -> int:
        """Where the data of a file with holes begin: behind further blocks that say where the holes are."""
        more = block[482]
        while more:
            more = (read_at(self.handle, BLOCK, offset) or bytes(BLOCK)).ljust(BLOCK, b"\0")[504]
            offset += BLOCK
        return offset

    def _next_header(self, offset: int) -> int:
        """Behind an end mark, where the next header is; the end of the file where there is none."""
        while stretch := read_at(self.handle, _STRETCH, offset):
            if filled := stretch.lstrip(b"\0"):
                offset += (len(stretch) - len(filled)) // BLOCK * BLOCK
                block = read_at(self.handle, BLOCK, offset)
                if _header(block) is not None:
                    return offset
                if _is_marked(block):
                    self._end_at(offset, len(block))
                return self.size  # something that is no part of the tar
            offset += len(stretch)
        return self.size

    def _end_at(self, offset: int, length: int) -> None:
        """The file goes on with something that is no header."""
        start = read_at(self.handle, BLOCK, 0)
        kind = kind_of(start)
        if offset == 0 and not _is_marked(start) and (length == BLOCK or kind.known):
            self.fault = f"{kind.what}, not a tar: {kind.advice or AGAIN}"
        elif length == BLOCK:
            self.lost = f"no header of a member is at byte {offset}, and nothing behind it can be read: {AGAIN}"


class _Told(NamedTuple):
    """What extended headers say of the next member."""

    name: str | None = None
    size: int | None = None
    link: str | None = None
    sparse: bool = False

    def with_header(self, kind: bytes, content: bytes) -> "_Told":
        if kind == b"L":
            return self._replace(name=_text(content))
        if kind == b"K":
            return self._replace(link=_text(content))
        if not any(key in content for key in (b" path=", b" size=", b" linkpath=", b" GNU.sparse.")):
            return self  # webdataset's writer notes the time only
        told = self
        while content:
            digits, _, rest = content.partition(b" ")
            if not digits.isdigit() or not (length := int(digits)):
                break
            record, content = rest[: length - len(digits) - 2], content[length:]
            key, _, value = record.partition(b"=")
            told = told._with_record(key, value)
        return told

    def _with_record(self, key: bytes, value: bytes) -> "_Told":
        if key in (b"path", b"GNU.sparse.name"):
            return self._replace(name=value.decode("utf-8", "surrogateescape"), sparse=self.sparse or key != b"path")
        if key == b"linkpath":
            return self._replace(link=value.decode("utf-8", "surrogateescape"))
        if key == b"size" and value.isdigit():
            return self._replace(size=int(value))
        return self._replace(sparse=True) if key.startswith(b"GNU.sparse.") else self


class _Header(NamedTuple):
    name: str
    size: int
    kind: bytes  # one byte; none: the end mark
    link: str = ""


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
    if size < 0 or checksum != sum(block) - sum(block[148:156]) + 8 * 0x20:
        return None
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = f"{_text(block[345:500])}/{name}"
    return _Header(name, size, block[156:157], _text(block[157:257]) if block[157] else "")


def _is_marked(block: bytes) -> bool:
    """Whether it was a header, as it seems, before it was damaged."""
    return block[257:262] == b"ustar"


def _follow(link: Member, target: str, targets: dict[tuple[int, str], Member]) -> Member:
    found = targets.get((link.part, posixpath.normpath(target)))
    return link if found is None else found._replace(name=link.name, part=link.part)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")
