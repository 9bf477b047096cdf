"""Pictures of more than 8 bits a value as Pillow gives them -> 8 bits by the rule of `levels.py`."""

import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vglm_train.image.errors import ImageError
from vglm_train.image.levels import are_scaled_up, bits_of, to_8_bits

BITS_PER_SAMPLE, PHOTOMETRIC, PLANES, SAMPLE_FORMAT = 258, 262, 284, 339  # TIFF tags
WHITE_IS_ZERO, APART = 0, 2  # values of PHOTOMETRIC and of PLANES

# Pillow keeps the upper byte of a colour of 16 bits. What it calls the other byte order gives the lower byte.
_OTHER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_HALVED = re.compile(r"(RGB|RGBX|RGBA);16([BLN])")
_TOP_14 = 63  # upper byte of the largest value of 14 bits: what reaches above it has 16


def grey_of_many_bits(image: Image.Image, data: bytes) -> tuple[Image.Image, str]:
    """A picture of mode I, I;16 or F -> mode L, and the range that was taken. convert() would cut it off at 255."""
    tags = getattr(image, "tag_v2", {})
    values, stored = np.asarray(image), tags.get(BITS_PER_SAMPLE, (16,))[0]
    if values.dtype == np.int32 and stored == 32 and tags.get(SAMPLE_FORMAT, (1,))[0] == 1:
        values = values.view(np.uint32)  # Pillow takes them as signed
    bits: int | None = None
    if image.format == "PPM" and image.mode == "I":
        bits = 16  # Pillow has scaled them by the largest value that the header gives
    elif stored < 16:
        bits = stored
    elif image.format == "PNG":
        bits = _bits_of_png(data, values)
    levels, found = to_8_bits(values, bits)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        levels = 255 - levels  # Pillow heeds it for up to 8 bits alone
    if isinstance(clear := image.info.get("transparency"), int):
        levels = np.where(values == clear, np.uint8(255), levels)
    return Image.fromarray(levels), _note("float" if image.mode == "F" else f"{stored}-bit", found, bits is not None)


def colour_of_16_bits(
    image: Image.Image, data: bytes, raw: str, reopen: Callable[[], Image.Image]
) -> tuple[Image.Image, str]:
    """A picture of which Pillow has kept the upper bytes -> as it is, or, where these are low, by all 16 bits.

    `raw`: Pillow's name for the layout of the stored values; `reopen` gives the picture anew, not yet loaded.
    ImageError of a layout that cannot be read right.
    """
    if image.mode not in ("RGB", "RGBA"):  # CMYK
        return image, _note("16-bit", "16 bits", False)
    upper = np.asarray(image)
    colours = upper.shape[-1] - (image.mode == "RGBA")
    if upper[..., :colours].max() > _TOP_14:
        return image, _note("16-bit", "16 bits", False)
    values = upper.astype(np.uint16) << 8 | _lower_bytes(reopen(), raw)
    stated = _bits_of_png(data, values[..., :colours]) if image.format == "PNG" else None
    bits = stated or bits_of(int(values[..., :colours].max()))
    if bits == 16:
        return image, _note("16-bit", "16 bits", stated is not None)
    levels, found = to_8_bits(values[..., :colours], bits)
    if colours < upper.shape[-1]:
        alpha = values[..., colours:]
        levels = np.concatenate([levels, to_8_bits(alpha, bits if alpha.max() < 1 << bits else 16)[0]], axis=-1)
    return Image.fromarray(levels), _note("16-bit", found, stated is not None)


def is_torn_apart(image: Image.Image) -> bool:
    """Whether it is an uncompressed TIFF of 16 bits a colour with each apart, which Pillow reads as noise."""
    return _is_apart(image) and len(image.tile) > 1  # type: ignore[attr-defined]


def _is_apart(image: Image.Image) -> bool:
    tags = getattr(image, "tag_v2", {})
    return tags.get(PLANES) == APART and max(tags.get(BITS_PER_SAMPLE, (8,))) > 8


def _lower_bytes(image: Image.Image, raw: str) -> NDArray[np.uint8]:
    tiles = image.tile  # type: ignore[attr-defined]
    if raw == "LA;16B":  # PNG's grey with transparency: as four bytes a pixel
        image.tile = [tile._replace(args="RGBA") for tile in tiles]  # type: ignore[attr-defined]
        return np.asarray(image)[..., [1, 1, 1, 3]]
    if (halved := _HALVED.fullmatch(raw)) is None or _is_apart(image):
        raise ImageError("undecodable", f"16 bits a colour that hold small values, stored as {raw}: store 8 bits")
    other = f"{halved[1]};16{_OTHER[halved[2]]}"
    image.tile = [  # type: ignore[attr-defined]
        tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other) for tile in tiles
    ]
    return np.asarray(image)


def _bits_of_png(data: bytes, values: NDArray[Any]) -> int | None:
    """How many bits 16-bit values have by the chunk sBIT; None where it does not tell.

    The standard wants fewer bits spread over all 16. Writers that leave them as they are, are believed if they fit.
    """
    bits = _significant_bits(data)
    if bits is None or not 8 <= bits <= 16:
        return None
    if bits == 16 or are_scaled_up(values, bits):
        return 16
    return bits if int(values.max()) < 1 << bits else None


def _significant_bits(data: bytes) -> int | None:
    """The most bits that a PNG's chunk sBIT gives one of its colours."""
    position = 8
    while position + 8 <= len(data):
        size, kind = int.from_bytes(data[position : position + 4]), data[position + 4 : position + 8]
        if kind == b"sBIT" and size:
            return max(data[position + 8 : position + 8 + size])
        if kind == b"IDAT":
            return None
        position += 12 + size
    return None


def _note(stored: str, found: str, stated: bool) -> str:
    """In words, the same for all pictures of a kind, so that they can be counted."""
    return f"{stored} values, range {'as the file says' if stated else 'found'} {found}"
