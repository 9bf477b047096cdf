"""Pictures as BLIP-2 trains and evaluates on them: random crops, and whole pictures squeezed into a square."""

import math
import random
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vglm_train.image.decode import decode
from vglm_train.image.part import Part
from vglm_train.image.resize import part_pixels, resize

Decoder = Literal["turbo", "pillow"]

RATIO = (3 / 4, 4 / 3)  # width over height of a training crop, as torchvision's RandomResizedCrop
ATTEMPTS = 10  # to sample a crop that fits, as torchvision


def crop_pixels(
    data: bytes, size: int, scale: tuple[float, float], flip: bool, rng: random.Random, decoder: Decoder | None = None
) -> Tensor:
    """`train_pixels` of an encoded picture, decoded only as large as its crop needs.

    The crop is sampled first. Then a JPEG is decoded at the smallest of 1, 1/2, 1/4, 1/8 of its size that leaves the
    crop at least `size` wide and high. At full size the pixels equal those of `train_pixels`, below it they differ by
    a few of 255 levels on average (`decoder` pillow: less than 2), since JPEG shrinks by its own filter.
    `decoder`: as data.image.decoder; None is pillow. ImageError as `open_image`.
    """
    pixels = _part(data, Part(size, lambda width, height: random_crop(width, height, scale, rng)), decoder)
    return _mirrored(pixels, flip, rng)


def whole_pixels(data: bytes, size: int, decoder: Decoder | None = None) -> Tensor:
    """`eval_pixels` of an encoded picture, decoded at full size. ImageError as `open_image`."""
    return _part(data, Part(size, lambda width, height: (0, 0, width, height), scaled=False), decoder)


def train_pixels(image: Image.Image, size: int, scale: tuple[float, float], flip: bool, rng: random.Random) -> Tensor:
    """RandomResizedCrop (area share `scale`, bicubic), then a mirror image half the time if `flip`.

    RGB picture -> uint8 [3,size,size]. Only `rng.random()` is used, whose sequence Python guarantees for a seed.
    """
    crop = image.crop(random_crop(image.width, image.height, scale, rng))
    return _mirrored(eval_pixels(crop, size), flip, rng)


def eval_pixels(image: Image.Image, size: int, decoder: Decoder | None = None) -> Tensor:
    """The whole RGB picture squeezed into a square, bicubic, as BLIP-2 evaluates -> uint8 [3,size,size]."""
    if decoder == "turbo":
        return resize(np.array(image), size)
    return _tensor(image.resize((size, size), Image.Resampling.BICUBIC))


def random_crop(width: int, height: int, scale: tuple[float, float], rng: random.Random) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a crop, sampled as by torchvision's RandomResizedCrop.

    With `scale` (1, 1) it is the whole picture, as in evaluation, and `rng` is not used; torchvision would cut off what
    is beyond 3:4 or 4:3.
    """
    if scale[0] >= 1:
        return 0, 0, width, height
    low, high = (math.log(r) for r in RATIO)
    for _ in range(ATTEMPTS):
        area = width * height * (scale[0] + rng.random() * (scale[1] - scale[0]))
        ratio = math.exp(low + rng.random() * (high - low))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.random() * (width - w + 1)), int(rng.random() * (height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _part(data: bytes, part: Part, decoder: Decoder | None) -> Tensor:
    if decoder == "turbo":
        return part_pixels(data, part)
    image, _ = decode(data, part.limit)
    box, side = part.within(*image.size), (part.size, part.size)
    if image.size == part.whole:  # what is beyond the crop does not reach into it
        return _tensor(image.crop(part.rounded(*image.size)).resize(side, Image.Resampling.BICUBIC))
    return _tensor(image.resize(side, Image.Resampling.BICUBIC, box))


def _mirrored(pixels: Tensor, flip: bool, rng: random.Random) -> Tensor:
    return pixels.flip(-1) if flip and rng.random() < 0.5 else pixels


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
