"""Pictures as BLIP-2 trains and evaluates on them: random crops, and whole pictures squeezed into a square."""

import math
import random

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vglm_train.image.decode import decode
from vglm_train.image.decode import orientation as orientation_of

RATIO = (3 / 4, 4 / 3)  # width over height of a training crop, as torchvision's RandomResizedCrop
ATTEMPTS = 10  # to sample a crop that fits, as torchvision

_REVERSED_X, _REVERSED_Y = (2, 3, 6, 7), (3, 4, 7, 8)  # whose left, or top, was right or bottom as stored


def crop_pixels(data: bytes, size: int, scale: tuple[float, float], flip: bool, rng: random.Random) -> Tensor:
    """`train_pixels` of an encoded picture, decoded only as large as its crop needs.

    The crop is sampled first. Then a JPEG is decoded at the smallest of 1, 1/2, 1/4, 1/8 of its size that leaves the
    crop at least `size` wide and high. At full size the pixels equal those of `train_pixels`, below it they differ by
    less than 2 of 255 levels on average, since JPEG shrinks by its own filter. ImageError as `open_image`.
    """
    whole, box, orientation = (0, 0), (0, 0, 0, 0), 1

    def limit(image: Image.Image) -> tuple[int, int] | None:
        nonlocal whole, box, orientation
        orientation = orientation_of(image)
        whole = (image.height, image.width) if orientation >= 5 else image.size
        box = random_crop(*whole, scale, rng)
        factor = min(box[2] - box[0], box[3] - box[1]) / size
        return (math.ceil(image.width / factor), math.ceil(image.height / factor)) if factor >= 2 else None

    image, _ = decode(data, limit)
    if image.size == whole:
        return _finish(image.crop(box).resize((size, size), Image.Resampling.BICUBIC), flip, rng)
    shrink = round(
        max(whole) / max(image.size)
    )  # the last pixel of a row stands for what is left: sizes are rounded up
    x = image.width - whole[0] / shrink if orientation in _REVERSED_X else 0.0
    y = image.height - whole[1] / shrink if orientation in _REVERSED_Y else 0.0
    right, bottom = min(x + box[2] / shrink, image.width), min(y + box[3] / shrink, image.height)
    part = (x + box[0] / shrink, y + box[1] / shrink, right, bottom)
    return _finish(image.resize((size, size), Image.Resampling.BICUBIC, part), flip, rng)


def train_pixels(image: Image.Image, size: int, scale: tuple[float, float], flip: bool, rng: random.Random) -> Tensor:
    """RandomResizedCrop (area share `scale`, bicubic), then a mirror image half the time if `flip`.

    RGB picture -> uint8 [3,size,size]. Only `rng.random()` is used, whose sequence Python guarantees for a seed.
    """
    crop = image.crop(random_crop(image.width, image.height, scale, rng))
    return _finish(crop.resize((size, size), Image.Resampling.BICUBIC), flip, rng)


def eval_pixels(image: Image.Image, size: int) -> Tensor:
    """The whole RGB picture squeezed into a square, bicubic, as BLIP-2 evaluates -> uint8 [3,size,size]."""
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


def _finish(crop: Image.Image, flip: bool, rng: random.Random) -> Tensor:
    return _tensor(ImageOps.mirror(crop) if flip and rng.random() < 0.5 else crop)


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
