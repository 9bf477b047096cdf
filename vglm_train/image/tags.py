"""Tags as TIFF and EXIF hold them, judged before Pillow copies what they name.

Pillow copies the bytes of every tag. Tags may overlap, so 60 KB of EXIF can name 300 MB, and a TIFF of 20 MB more than
a machine has.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from vglm_train.image.errors import ImageError

EXIF = b"Exif\0\0"
NUMBERS = 65_536  # values that a tag of numbers may have: each becomes a Python object

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_BYTES = (1, 2, 7)  # types that stay bytes
_TILE_SIDES = (322, 323)


class _Form(NamedTuple):
    """How numbers are written: in which order, and in the wide form that BigTIFF has."""

    order: str
    big: bool

    def number(self, data: bytes, start: int, count: bool = False) -> int:
        """An offset; with `count`, the number of a directory's entries."""
        kind = "Q" if self.big else "H" if count else "I"
        (value,) = struct.unpack_from(self.order + kind, data, start)
        return int(value)


def check_tags(data: bytes, pixels: int | None = None) -> None:
    """ImageError "bomb" if the first directory of `data` names more bytes than there are, or tiles beyond `pixels`.

    data: a TIFF file, or EXIF from its byte order on. What is no directory passes: Pillow says what is wrong with it.
    """
    form = _form(data)
    named, tile = 0, 1
    for tag, kind, count, value in () if form is None else _entries(data, form):
        named += count * _SIZES.get(kind, 0)
        if named > len(data) or (count > NUMBERS and kind not in _BYTES):
            raise ImageError("bomb", f"its tags name more than there is in it ({len(data):,} bytes): save it anew")
        tile *= value if tag in _TILE_SIDES else 1
    if pixels is not None and tile > pixels:
        raise ImageError("bomb", f"its tiles have {tile:,} pixels; {pixels:,} at most are read: save it anew")


def check_exif(data: bytes) -> None:
    """`check_tags` of EXIF as it stands in a picture."""
    if data.startswith(EXIF * 2):  # Pillow takes such marks off one by one
        raise ImageError("bomb", "its EXIF begins several times: save it anew")
    check_tags(data.removeprefix(EXIF))


def count_pages(data: bytes, limit: int) -> int:
    """Number of directories of a TIFF, up to one more than `limit`."""
    form, pages = _form(data), 0
    if form is None:
        return 1
    try:
        start = form.number(data, 8 if form.big else 4)
        while start and pages <= limit:
            pages += 1
            entries = form.number(data, start, count=True)
            start = form.number(data, start + (8 + 20 * entries if form.big else 2 + 12 * entries))
    except struct.error:  # the chain ends beyond the file
        pass
    return pages


def _form(data: bytes) -> _Form | None:
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return None
    return _Form(order, struct.unpack_from(order + "H", data, 2)[0] == 43)


def _entries(data: bytes, form: _Form) -> Iterator[tuple[int, int, int, int]]:
    """Tag, type, number of values, and the value where one fits in, of the first directory up to where it is cut."""
    try:
        start = form.number(data, 8 if form.big else 4)
        size, head = (20, 8) if form.big else (12, 2)
        for number in range(form.number(data, start, count=True)):
            place = start + head + number * size
            tag, kind, count = struct.unpack_from(form.order + ("HHQ" if form.big else "HHI"), data, place)
            value = struct.unpack_from(form.order + ("H" if kind == 3 else "I"), data, place + (12 if form.big else 8))
            yield tag, kind, count, value[0]
    except struct.error:
        return
