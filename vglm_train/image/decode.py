"""Bytes of a picture file -> an upright RGB picture: the one decoder and the one list of formats, of every reader."""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from vglm_train.file_kind import AGAIN, kind_of
from vglm_train.image.depth import (
    BITS_PER_SAMPLE,
    PHOTOMETRIC,
    SAMPLE_FORMAT,
    WHITE_IS_ZERO,
    colour_of_16_bits,
    grey_of_many_bits,
    is_torn_apart,
)
from vglm_train.image.dicom import is_dicom, render
from vglm_train.image.dicom import read_header as read_dicom_header
from vglm_train.image.errors import ImageError
from vglm_train.image.tags import check_exif

# name of each format that is read, as Pillow has it -> suffixes of its files, in small letters (or capitals)
FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "PNG": ("png",),
    "WEBP": ("webp",),
    "GIF": ("gif",),
    "TIFF": ("tif", "tiff"),
    "BMP": ("bmp",),
    "AVIF": ("avif",),
    "PPM": ("ppm", "pgm", "pbm", "pnm"),
    "DICOM": ("dcm", "dicom"),
}
_OF_PILLOW = tuple(name for name in FORMATS if name != "DICOM")
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
MAX_PIXELS = 89_478_485  # a larger picture counts as a decompression bomb: 256 MiB as RGB
SEVERAL = "several in one file (an animation, pages), of which the first is taken"

_ORIENTATION = 0x0112  # EXIF tag
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Limit = Callable[[Image.Image], tuple[int, int] | None]


class ImageHeader(NamedTuple):
    """What a picture's header says. `format`: a key of FORMATS; sizes are those of the upright picture."""

    format: str
    width: int
    height: int


class ExaminedImage(NamedTuple):
    """An upright RGB picture. `notes`: what was taken for granted in decoding it, in words that can be counted."""

    image: Image.Image
    notes: tuple[str, ...]


def open_image(data: bytes, smallest: int | None = None) -> Image.Image:
    """Bytes of a picture in one of FORMATS -> an upright RGB picture, decoded in full.

    The EXIF orientation is applied, and transparency becomes white. CMYK is read with Adobe's inverted inks, as all
    common JPEG writers store them. Of an animation, and of a file of several pages, the first picture is taken. Values
    of more than 8 bits are scaled as `levels.py` says.
    `smallest`: a large JPEG may be decoded at 1/2, 1/4 or 1/8 as long as both sides stay at least that long.
    Raises ImageError: "bomb" above MAX_PIXELS (judged by the header), else "undecodable" with what the file is, also
    for a file cut short and a picture that is transparent everywhere.
    """
    return decode(data, lambda image: None if smallest is None else (smallest, smallest))[0]


def examine_image(data: bytes) -> ExaminedImage:
    """`open_image` at full size, and what was inferred on the way."""
    image, note = decode(data, lambda image: None)
    notes = (note, SEVERAL if _has_several(data) else None)
    return ExaminedImage(image, tuple(each for each in notes if each is not None))


def read_header(data: bytes) -> ImageHeader:
    """Format and size; only a PNG is decoded for it, as its EXIF may stand at the end. ImageError as `open_image`."""
    if is_dicom(data):
        dicom = read_dicom_header(data)
        sides = (dicom.width, dicom.height)
        return ImageHeader("DICOM", *(reversed(sides) if dicom.turn[0] else sides))
    with reading(data):
        image = header_of(data)
        width, height = image.size
        if orientation(image) >= 5:
            width, height = height, width
        return ImageHeader("JPEG" if image.format == "MPO" else str(image.format), width, height)


def decode(data: bytes, limit: Limit, grey: bool = False) -> tuple[Image.Image, str | None]:
    """An upright RGB picture, and which values were taken as black and white where that had to be found out.

    `limit`: of the picture as stored, the width and height that a JPEG's scaled decoding must not go below.
    `grey`: a picture without colours is of mode L.
    """
    if is_dicom(data):
        dicom = render(data)
        limit(dicom.image)
        return dicom.image, dicom.note
    with reading(data):
        image = header_of(data)
        raw = _raw_mode(image)  # now, because asking a PNG for its EXIF loads it
        if is_torn_apart(image):
            raise ImageError("undecodable", "a TIFF picture of 16 bits a colour, each apart: store 8 bits")
        least = limit(image)
        if least is not None:
            image.draft(None, least)
        image.load()
        method = _TRANSPOSES.get(orientation(image))
        image, note = _flat(image, data, raw)
        image = image if image.mode == "RGB" or (grey and image.mode == "L") else image.convert("RGB")
        return image if method is None else image.transpose(method), note


def orientation(image: Image.Image) -> int:
    """EXIF's number from 1 to 8; 5 and above turn the picture on its side. 1 of TIFF, which Pillow turns itself."""
    if image.format == "TIFF":
        return 1
    try:
        if image.format == "PNG":
            image.load()  # its EXIF may stand at the end
        check_exif(_exif(image))
        value = image.getexif().get(_ORIENTATION, 1)
        return value if value in _TRANSPOSES else 1
    except Exception:  # damaged EXIF is no reason to lose the picture
        return 1


def _exif(image: Image.Image) -> bytes:
    """As Pillow finds it; old PNGs have it as text."""
    text = image.info.get("Raw profile type exif", "")
    return image.info.get("exif") or bytes.fromhex("".join(text.split("\n")[3:]))


@contextmanager
def reading(data: bytes) -> Iterator[None]:
    """Whatever Pillow raises within it becomes an ImageError that says what the file is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata without naming the file
        try:
            yield
        except Image.DecompressionBombError:
            raise ImageError("bomb", f"more than {2 * MAX_PIXELS:,} pixels; {MAX_PIXELS:,} at most are read") from None
        except ImageError:
            raise
        except Exception as error:  # Pillow's decoders raise nearly anything on hostile bytes
            raise ImageError("undecodable", _reason(data, error)) from error


def header_of(data: bytes, formats: tuple[str, ...] = _OF_PILLOW) -> Image.Image:
    """The picture with its header read."""
    image = Image.open(io.BytesIO(data), formats=formats)
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width:,} x {image.height:,}"
        raise ImageError("bomb", f"{size} pixels; {MAX_PIXELS:,} at most are read: store it smaller")
    if not image.width or not image.height:
        raise ImageError("undecodable", f"a picture without pixels: {image.width} x {image.height}")
    return image


def _reason(data: bytes, error: Exception) -> str:
    """What the file is, what its decoder says of it where it is a picture, and what to do."""
    kind = kind_of(data)
    if isinstance(error, UnidentifiedImageError):
        if kind.picture is None:
            return f"{kind.what}: {kind.advice or 'what is read is ' + ', '.join(FORMATS)}"
        error = _refusal(data, kind.picture)
    said = re.sub(r"<[^<>]* object at 0x\w+>", "the file", str(error)) or type(error).__name__
    if "requires a buffer" in said or said == "index out of range":  # of struct, of Pillow
        said = "it ends within its header"
    elif "no more images" in said:
        said = "it ends before its first picture"
    elif "truncated" not in said.lower():
        return f"{kind.what} that is damaged, or of a kind that is not read ({said}): save it anew"
    return f"{kind.what} that is cut short ({said}): {AGAIN}"


def _refusal(data: bytes, name: str) -> Exception:
    """Why the format's own reader does not take the file; Pillow keeps that to itself."""
    try:
        Image.OPEN[name][0](io.BytesIO(data), "")
    except Exception as error:
        tags = _tiff_tags(data) if name == "TIFF" else {}
        if BITS_PER_SAMPLE in tags:
            form = {2: "signed integers", 3: "floats"}.get(max(tags.get(SAMPLE_FORMAT, (1,))), "integers")
            white = ", with white as 0" if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else ""
            return ValueError(f"{error}: {form} of {max(tags[BITS_PER_SAMPLE])} bits{white}")
        return ValueError("its header gives no size") if "not identified" in str(error) else error
    return ValueError("its header cannot be read")


def _tiff_tags(data: bytes) -> Any:
    """Of its first page; none where they cannot be read."""
    try:
        file = io.BytesIO(data)
        tags = ImageFileDirectory_v2(file.read(16 if data[2] == 43 else 8))
        file.seek(tags.next)
        tags.load(file)
        return tags
    except Exception:
        return {}


def _has_several(data: bytes) -> bool:
    """Whether more pictures follow the first. A JPEG's further ones are previews and the like."""
    if is_dicom(data):
        return read_dicom_header(data).frames > 1
    try:
        image = Image.open(io.BytesIO(data), formats=_OF_PILLOW)
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # what follows the first is damaged
        return True


def _raw_mode(image: Image.Image) -> str:
    """How Pillow calls the layout of the stored values; empty for decoders that have one alone."""
    arguments = image.tile[0].args if getattr(image, "tile", None) else ""  # type: ignore[attr-defined]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _flat(image: Image.Image, data: bytes, raw: str) -> tuple[Image.Image, str | None]:
    """Of 8 bits, opaque, in whichever mode."""
    note = None
    if image.mode[0] in "IF":
        image, note = grey_of_many_bits(image, data)
    elif ";16" in raw:
        image, note = colour_of_16_bits(image, data, raw, lambda: header_of(data))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() == (0, 0):
            raise ImageError("undecodable", "transparent everywhere: if its colours are right, save it without alpha")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image, note
