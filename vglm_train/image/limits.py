"""A picture from a stranger, judged by its bytes before anything is decoded.

Pillow refuses pictures with too many pixels, but reads all that stands before them: a comment or EXIF in a million
parts takes it minutes, and a progressive JPEG of a thousand passes too. So the parts are counted here.
What follows a picture in its file (a ZIP, a script) is never looked at.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from PIL import UnidentifiedImageError

from vglm_train.file_kind import kind_of
from vglm_train.image.decode import ImageHeader, header_of, reading
from vglm_train.image.dicom import read_header as read_dicom_header
from vglm_train.image.errors import ImageError
from vglm_train.image.tags import EXIF, check_exif, check_tags, count_pages

MIB = 2**20
PARTS = 4096  # segments before a JPEG's first pass, blocks of a GIF's comments: a few in real files
PASSES = 100  # of a progressive JPEG: ten or so in real files
IN_PYTHON = ("ppm", "ppm_plain", "bmp_rle")  # Pillow's decoders that take seconds for a megabyte

JUNK = 65_536  # bytes between a JPEG's segments, which Pillow skips one at a time

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_ALONE = {0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)}  # markers that Pillow takes without a length
_START, _END = 0xDA, 0xD9  # of a pass; of the picture
_NUMBER = rb"(?:\s+(?:#[^\r\n]*[\r\n]\s*)*\d+)"
_PPM = re.compile(rb"P(?:4" + _NUMBER + rb"{2}|[56]" + _NUMBER + rb"{3})\s")
_TAGS = re.compile(rb"II\*\0|MM\0\*")  # the beginning of EXIF


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Bounds of one picture."""

    bytes: int = 20 * MIB
    pixels: int = 50_000_000  # 150 MB as RGB
    side: int = 65_535  # pixels; shrinking takes memory by the longer side
    frames: int = 1000  # of an animation, pages of a TIFF. The first is taken.


def check_image(data: bytes, limits: ImageLimits) -> ImageHeader:
    """What the header says of a picture that may be decoded; the size is that of the picture as stored.

    ImageError: "bomb" if it is beyond a limit, "undecodable" if it is no picture.
    """
    if len(data) > limits.bytes:
        raise ImageError("bomb", f"{len(data):,} bytes; at most {limits.bytes:,} are taken: store it smaller")
    kind = kind_of(data)
    if kind.picture == "DICOM":
        return _check_dicom(data, limits)
    with reading(data):
        if kind.picture is None:
            raise UnidentifiedImageError
        if kind.picture in _CHECKS:
            _CHECKS[kind.picture](data, limits)
        image = header_of(data, (kind.picture,))
    _check_size(image.width, image.height, limits)
    _check_frames(getattr(image, "n_frames", 1) if image.format == "AVIF" else 1, limits)
    tiles = image.tile  # type: ignore[attr-defined]
    if tiles and tiles[0].codec_name in IN_PYTHON:
        raise ImageError("undecodable", f"{kind.what} of a rare kind that is slow to read: save it as PNG")
    return ImageHeader("JPEG" if image.format == "MPO" else str(image.format), image.width, image.height)


def _check_dicom(data: bytes, limits: ImageLimits) -> ImageHeader:
    header = read_dicom_header(data)
    _check_size(header.width, header.height, limits)
    _check_frames(header.frames, limits)
    return ImageHeader("DICOM", header.width, header.height)


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.pixels or max(width, height) > limits.side:
        most = f"{limits.pixels:,}, and {limits.side:,} a side"
        raise ImageError("bomb", f"{width:,} x {height:,} pixels; at most {most}, are taken: store it smaller")


def _check_frames(frames: int, limits: ImageLimits) -> None:
    if frames > limits.frames:
        raise ImageError("bomb", f"more than {limits.frames:,} frames or pages: send the one that is meant")


def _too_many_parts() -> ImageError:
    return ImageError("bomb", "it is in more parts than a picture has: save it anew")


def _check_jpeg(data: bytes, limits: ImageLimits) -> None:
    """Its segments up to its end; what follows the end is not looked at."""
    place, passes, junk = 2, 0, 0
    exif: list[bytes] = []
    for part in count():
        found = _MARKER.search(data, place)
        junk += found.start() - place if found and not passes else 0
        if part > PARTS or passes > PASSES or junk > JUNK:
            raise _too_many_parts()
        if found is None or (found[0][1] == _END and passes):
            break
        place, marker = found.end(), found[0][1]
        if marker in _ALONE:
            continue
        segment = data[place + 2 : place + int.from_bytes(data[place : place + 2])]
        if marker == 0xE1 and segment.startswith(EXIF):
            exif.append(segment[len(EXIF) :] if exif else segment)
        if marker == 0xE2 and segment.startswith(b"MPF\0"):
            check_tags(segment[4:])
        passes += marker == _START
        place += 2 + len(segment)
    check_exif(b"".join(exif))


def _check_png(data: bytes, limits: ImageLimits) -> None:
    place, most = 8, PARTS + len(data) // 256
    for part in count():
        length, name = int.from_bytes(data[place : place + 4]), data[place + 4 : place + 8]
        if name in (b"", b"IEND"):
            return
        if part > most:
            raise _too_many_parts()
        if name == b"acTL":
            _check_frames(int.from_bytes(data[place + 8 : place + 12]), limits)
        place += 12 + length


def _check_gif(data: bytes, limits: ImageLimits) -> None:
    place, frames, parts, blocks = 13 + _palette(data[10:11]), 0, 0, PARTS + len(data) // 64
    while place < len(data) and data[place] != ord(";"):
        kind = data[place : place + 1]
        if kind == b",":
            frames += 1
            _check_frames(frames, limits)
            place += 11 + _palette(data[place + 9 : place + 10])
        elif kind == b"!":
            place += 2
        else:
            place, parts = place + 1, parts + 1
        while kind in b",!" and place < len(data) and data[place]:
            place += data[place] + 1
            parts, blocks = parts + (kind == b"!"), blocks - 1
            if not blocks:
                break
        if parts > PARTS or not blocks:
            raise _too_many_parts()
        place += kind in b",!"


def _palette(flags: bytes) -> int:
    """Bytes of the palette that the flags of a screen or a frame announce."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def _check_webp(data: bytes, limits: ImageLimits) -> None:
    """Its canvas, which libwebp allocates while it reads the header, and its frames."""
    place, frames = 12, 0
    for part in count():
        name, length = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if len(name) < 4:
            return
        if part > PARTS + limits.frames:
            raise _too_many_parts()
        if part == 0:
            _check_size(*_webp_size(name, data[place + 8 : place + 18]), limits)
        frames += name == b"ANMF"
        _check_frames(frames, limits)
        place += 8 + length + length % 2


def _webp_size(name: bytes, head: bytes) -> tuple[int, int]:
    """Width and height by the first chunk; 0 where it is none of WebP's."""
    if name == b"VP8X":
        return int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1
    if name == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = head[6:8], head[8:10]
    return int.from_bytes(width, "little") & 0x3FFF, int.from_bytes(height, "little") & 0x3FFF


def _check_tiff(data: bytes, limits: ImageLimits) -> None:
    check_tags(data, limits.pixels)
    _check_frames(count_pages(data, limits.frames), limits)


def _check_avif(data: bytes, limits: ImageLimits) -> None:
    """Pillow reads its EXIF with the header."""
    for number, found in enumerate(_TAGS.finditer(data)):
        if number == 16:
            raise _too_many_parts()
        check_tags(data[found.start() :])


def _check_ppm(data: bytes, limits: ImageLimits) -> None:
    """Pillow reads its header one byte at a time."""
    if not _PPM.match(data[:1024]):
        raise ImageError("undecodable", "a PPM picture of a rare kind: save it as PNG")


_CHECKS: dict[str, Callable[[bytes, ImageLimits], None]] = {
    "JPEG": _check_jpeg,
    "PNG": _check_png,
    "GIF": _check_gif,
    "WEBP": _check_webp,
    "TIFF": _check_tiff,
    "AVIF": _check_avif,
    "PPM": _check_ppm,
}
