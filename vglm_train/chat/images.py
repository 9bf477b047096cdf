"""Pictures as people give them: a path, bytes, a PIL image or an array."""

import io
import os
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vglm_train.errors import UserError
from vglm_train.image import FORMATS, MAX_PIXELS, Decoder, Fit, ImageError, eval_pixels, whole_pixels

PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
Picture = str | PurePath | bytes | Image.Image | NDArray[np.uint8]


def read_pixels(picture: Picture, size: int, decoder: Decoder | None = None, fit: Fit | None = None) -> Tensor:
    """A picture -> uint8 [3,size,size], as evaluation makes it. UserError that names the picture.

    `decoder`, `fit`: the bundle's data.image.decoder and data.image.
    """
    try:
        if isinstance(picture, np.ndarray):
            return eval_pixels(_of_array(picture), size, decoder, fit)
        return whole_pixels(_file(picture), size, decoder, fit)
    except ImageError as error:
        advice = f"give a whole picture in one of these formats: {', '.join(FORMATS)}"
        if error.cause == "bomb":
            advice = "make it smaller"
        raise UserError(f"{name_of(picture)}: cannot be used ({error}); {advice}.") from error


def name_of(picture: Picture) -> str:
    """A picture in a message."""
    if isinstance(picture, str | PurePath):
        return str(picture)
    if isinstance(picture, bytes):
        return f"the picture of {len(picture)} bytes"
    if isinstance(picture, Image.Image):
        return f"the picture of {picture.width} x {picture.height} pixels"
    return f"the array {list(getattr(picture, 'shape', []))}"


def find_file(name: str | PurePath) -> Path:
    """The file of a path, also of one with backslashes where these do not part folders. UserError if there is none."""
    path = Path(os.fspath(name)).expanduser()
    if not path.is_file() and "\\" in str(name):
        path = Path(str(name).replace("\\", "/"))
    if not path.is_file():
        raise UserError(f"{name}: {'a folder, not a picture' if path.is_dir() else 'no such picture'}; give its path.")
    return path


def _file(picture: str | PurePath | bytes | Image.Image) -> bytes:
    """An encoded picture."""
    if isinstance(picture, str | PurePath):
        path = find_file(picture)
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: the picture cannot be read ({error.strerror}).") from error
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, Image.Image):
        return _in_memory(picture)
    kind = type(picture).__name__
    raise UserError(f"a picture must be a path, bytes, a PIL image or a numpy array; found {kind}.")


def _of_array(picture: NDArray[np.uint8]) -> Image.Image:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise UserError(
            f"{name_of(picture)} of {picture.dtype} is no picture: it must be uint8 of height x width x 3 (RGB)."
        )
    return Image.fromarray(picture)


def _in_memory(image: Image.Image) -> bytes:
    """A picture of Pillow's as a file, for the one decoder. ImageError as `open_image`."""
    if image.width * image.height > MAX_PIXELS:
        raise ImageError("bomb", f"{image.width} x {image.height} pixels")
    out, kind = io.BytesIO(), "PNG" if image.mode in PNG_MODES else "TIFF"
    try:
        image.save(out, kind, compress_level=1, exif=image.getexif())
    except Exception as error:  # a lazily opened file may be damaged in any way
        raise ImageError("undecodable", f"{type(error).__name__}: {error}") from error
    return out.getvalue()
