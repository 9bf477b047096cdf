"""Picture files as records name them, and picture bytes as they go into a shard."""

import errno
import io
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from vglm_train.errors import UserError
from vglm_train.image import FORMATS, ExaminedImage, ImageError, examine_image, read_header

KEPT = ("JPEG", "PNG", "WEBP", "AVIF")  # bytes pass through untouched; the others become PNG
MISSING = "missing image"
SHOWN = 120  # characters of a path
# What is wrong with one name alone. Anything else is wrong with the drive, and must not pass for missing pictures.
_OF_A_NAME = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM,
              errno.EINVAL, errno.EILSEQ}  # fmt: skip


class PreparedImage(NamedTuple):
    """A picture for a shard. `notes`: what was inferred in decoding it."""

    extension: str
    data: bytes
    notes: tuple[str, ...]


def read_file(path: Path) -> bytes:
    """The bytes of a picture that a record names. ImageError (MISSING) where there is none that may be read under this
    name, UserError where the drive fails."""
    name = str(path) if len(str(path)) <= SHOWN else f"{str(path)[:SHOWN]}... ({len(path.name)} characters)"
    try:
        return path.read_bytes()
    except ValueError as error:  # a NUL in the name
        raise ImageError(MISSING, f"{name!r}: {error}") from None
    except OSError as error:
        if error.errno not in _OF_A_NAME:
            raise UserError(f"{name}: cannot be read: {error.strerror}; mend that and run it again") from None
        raise ImageError(MISSING, f"{name}: {error.strerror}") from None


def extension(data: bytes) -> str:
    """The file extension of picture bytes, told from their content. ImageError where they are no picture."""
    return FORMATS[read_header(data).format][0]


def prepare(data: bytes, short_side: int | None = None) -> PreparedImage:
    """A picture's bytes for a shard, after decoding it in full to know that it can be.

    JPEG, PNG, WebP and AVIF are returned untouched; the others become PNG of the pixels that training would have seen.
    With `short_side`, a larger picture is shrunk to it (upright, RGB; what is or becomes PNG is PNG, the others become
    JPEG 95). Raises ImageError with its cause.
    """
    format, examined = read_header(data).format, examine_image(data)
    if short_side is not None and min(examined.image.size) > short_side:
        lossless = format not in KEPT or format == "PNG"
        return _shrunk(examined, short_side, lossless)
    if format in KEPT:
        return PreparedImage(FORMATS[format][0], data, examined.notes)
    return _encoded(examined.image, "PNG", examined.notes)


def _shrunk(examined: ExaminedImage, short_side: int, lossless: bool) -> PreparedImage:
    image = examined.image
    factor = short_side / min(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    small = image.resize(size, Image.Resampling.LANCZOS)
    return _encoded(small, "PNG" if lossless else "JPEG", examined.notes)


def _encoded(image: Image.Image, kind: str, notes: tuple[str, ...]) -> PreparedImage:
    """An RGB picture; a grey PNG is decoded to the same."""
    out = io.BytesIO()
    if kind == "JPEG":
        image.save(out, kind, quality=95, subsampling=0)
    else:
        out.write(png_of(image))
    return PreparedImage(FORMATS[kind][0], out.getvalue(), notes)


def png_of(image: Image.Image) -> bytes:
    """An RGB picture as a PNG, grey where it has no colour."""
    out = io.BytesIO()
    red, green, blue = (channel.tobytes() for channel in image.split())
    (image.getchannel(0) if red == green == blue else image).save(out, "PNG")
    return out.getvalue()
