"""A part of an encoded picture as a square of pixels: libjpeg-turbo decodes, torch resizes.

Where the picture is decoded at full size, no value is more than 2 of 255 levels from Pillow's BICUBIC. torch's kernels
for bytes give the same values on every processor. JPEGs that libjpeg-turbo says anything about, those of CMYK, and all
other formats are decoded by Pillow, which then judges them as it does alone.

h, w: sides of a picture as it is decoded.
"""

from typing import Any, Literal

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vglm_train.image.decode import decode, header_of, orientation, reading
from vglm_train.image.jpeg_header import JpegHeader, common_header
from vglm_train.image.part import REVERSED_X, REVERSED_Y, Part

_JPEG = b"\xff\xd8\xff"
Filter = Literal["bicubic", "bilinear"]
_SPACES = {"L": "GRAY", "RGB": "RGB"}  # Pillow's mode -> simplejpeg's name


def part_pixels(data: bytes, part: Part, filter_: Filter = "bicubic") -> Tensor:
    """`part` of an encoded picture -> uint8 [3,size,size] of the part's size. ImageError as `open_image`.

    Where it is decoded smaller than it is, the edges of the part are rounded to whole pixels of that.
    """
    values, side = _decode_jpeg(data, part) if data.startswith(_JPEG) else None, (part.size, part.size)
    if values is None:
        image, _ = decode(data, part.limit, grey=True)
        return resize(np.array(image.crop(part.rounded(image.width, image.height))), side, filter_)
    left, top, right, bottom = part.rounded(values.shape[1], values.shape[0])
    return resize(values[top:bottom, left:right], side, filter_)


def decode_values(data: bytes) -> NDArray[np.uint8]:
    """An encoded picture, upright and at full size -> [h,w] or [h,w,3]. ImageError as `open_image`."""
    whole = Part(1, lambda width, height: (0, 0, width, height), scaled=False)
    values = _decode_jpeg(data, whole) if data.startswith(_JPEG) else None
    return np.array(decode(data, whole.limit, grey=True)[0]) if values is None else values


def resize(values: NDArray[np.uint8], side: tuple[int, int], filter_: Filter = "bicubic") -> Tensor:
    """Antialiased: uint8 [h,w] or [h,w,3] -> [3, *side], height first.

    In memory the three bytes of a pixel lie side by side (channels_last), in and out. The values are the same, but
    torch's kernel is slow to write planes, and to make them of pixels is as slow: the device does it (`encode_image`).
    """
    down, along = values.strides[:2]
    if min(down, along) < 0 or along > down or 1 in values.shape[:2]:
        # of a turned picture: torch has no negative strides, and believes those of an axis of length 1
        values = values.copy()
    picture = torch.from_numpy(values)[None]
    picture = picture[None] if values.ndim == 2 else picture.permute(0, 3, 1, 2)
    made = F.interpolate(picture, side, mode=filter_, antialias=True)[0]
    return made if values.ndim == 3 else _three_times(made[0].numpy())


def _three_times(values: NDArray[np.uint8]) -> Tensor:
    """Grey [h,w] -> [3,h,w] as `resize` gives it. One colour after the other is faster than by broadcasting."""
    pixels = np.empty((*values.shape, 3), np.uint8)
    for colour in range(3):
        pixels[..., colour] = values
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _decode_jpeg(data: bytes, part: Part) -> NDArray[np.uint8] | None:
    """[h,w] or [h,w,3], upright. None of what libjpeg-turbo does not read without a warning."""
    header = common_header(data) or _header_by_pillow(data)
    if header.mode not in _SPACES:
        return None
    width, height = _scaled(header, part.least(header.width, header.height, header.turn))
    try:
        values: NDArray[Any] = simplejpeg.decode_jpeg(data, _SPACES[header.mode], min_height=height, min_width=width)
    except (ValueError, MemoryError):
        return None
    values = values[..., 0] if header.mode == "L" else values
    return _upright(values, part.turn)


def _header_by_pillow(data: bytes) -> JpegHeader:
    with reading(data):
        image = header_of(data)
        return JpegHeader(image.mode, *image.size, orientation(image))


def _scaled(header: JpegHeader, least: tuple[int, int] | None) -> tuple[int, int]:
    """The width and height at 1, 1/2, 1/4 or 1/8 of its size, the smallest that are at least `least`."""
    if least is None:
        return header.width, header.height
    ratio = min(header.width / least[0], header.height / least[1])
    divisor = next(divisor for divisor in (8, 4, 2, 1) if divisor <= ratio)
    return -(-header.width // divisor), -(-header.height // divisor)


def _upright(values: NDArray[Any], turn: int) -> NDArray[Any]:
    values = values.swapaxes(0, 1) if turn >= 5 else values
    values = values[::-1] if turn in REVERSED_Y else values
    return values[:, ::-1] if turn in REVERSED_X else values
