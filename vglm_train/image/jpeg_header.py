"""The header of a common JPEG. Pillow takes ten times as long for it, a twentieth of the time of a small photo.

What is read here, Pillow reads the same. Whatever it might refuse or turn is left to it: EXIF, profiles, rare parts.
"""

import struct
from typing import NamedTuple

from vglm_train.image.decode import MAX_PIXELS

_SEGMENT = struct.Struct(">BBH")  # 0xFF, marker, length that counts its own two bytes
_FRAME = struct.Struct(">BHHB")  # bits, height, width, layers
_MODES = {1: "L", 3: "RGB"}  # by layers
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_TABLES, _SCAN, _JFIF = 0xDB, 0xDA, 0xE0
_PASSED_OVER = (0xC4, 0xDD, 0xFE)  # Huffman tables, restart interval, comment
_TABLE = 65  # bytes of a table of _TABLES: its number, below 16 where values have 8 bits, and 64 values


class JpegHeader(NamedTuple):
    """Of a picture as stored. `mode`: as Pillow calls it; `turn`: EXIF's number, as of `orientation`."""

    mode: str
    width: int
    height: int
    turn: int = 1


def common_header(data: bytes) -> JpegHeader | None:
    """Of a JPEG whose header has common parts only, each of them whole, and no EXIF. None: Pillow is to be asked."""
    start, header = 2 if data.startswith(b"\xff\xd8") else len(data), None  # of another file there is nothing to read
    try:
        while True:
            mark, marker, length = _SEGMENT.unpack_from(data, start)
            body, end = start + 4, start + 2 + length
            if mark != 0xFF or length < 2 or end > len(data):
                return None
            if marker == _SCAN:
                return header
            if marker in _FRAMES and header is None:
                header = _frame(data, body, length)
                if header is None:
                    return None
            elif marker == _TABLES:
                if (end - body) % _TABLE or max(data[body:end:_TABLE], default=0) > 15:
                    return None
            elif marker not in _PASSED_OVER and (marker != _JFIF or length < 16):
                return None
            start = end
    except struct.error:  # the file ends here
        return None


def _frame(data: bytes, body: int, length: int) -> JpegHeader | None:
    bits, height, width, layers = _FRAME.unpack_from(data, body)
    if bits != 8 or layers not in _MODES or length != 8 + 3 * layers or not 0 < width * height <= MAX_PIXELS:
        return None
    return JpegHeader(_MODES[layers], width, height)
