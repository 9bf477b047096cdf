"""Pictures as an encoder gets them: random crops in training, and in evaluation as it was published.

BLIP-2 squeezes the whole picture into a square. Other encoders' own image processors cut a square out of its centre, or
resize by another filter: `Fit`.
"""

import math
import random
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vglm_train.image.decode import decode
from vglm_train.image.part import Part
from vglm_train.image.resize import Filter, decode_values, part_pixels, resize

Decoder = Literal["turbo", "pillow"]
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
LONGEST = 4  # times its shorter side: of a longer picture, what lies beyond the centre is left out before it is resized


class Fit(Protocol):
    """How a picture becomes a square in evaluation, as data.image has it; None stands for BLIP-2's way."""

    @property
    def squeeze(self) -> bool: ...

    @property
    def resize(self) -> int | None: ...

    @property
    def resample(self) -> Filter: ...


RATIO = (3 / 4, 4 / 3)  # width over height of a training crop, as torchvision's RandomResizedCrop
ATTEMPTS = 10  # to sample a crop that fits, as torchvision


def crop_pixels(
    data: bytes,
    size: int,
    scale: tuple[float, float],
    flip: bool,
    rng: random.Random,
    decoder: Decoder | None = None,
    fit: Fit | None = None,
) -> Tensor:
    """`train_pixels` of an encoded picture, decoded only as large as its crop needs.

    The crop is sampled first. Then a JPEG is decoded at the smallest of 1, 1/2, 1/4, 1/8 of its size that leaves the
    crop at least `size` wide and high. At full size the pixels equal those of `train_pixels`, below it they differ by
    a few of 255 levels on average (`decoder` pillow: less than 2), since JPEG shrinks by its own filter.
    `decoder`: as data.image.decoder; None is pillow. ImageError as `open_image`.
    """
    if scale[0] >= 1 and _cuts(size, fit):
        return _mirrored(whole_pixels(data, size, decoder, fit), flip, rng)
    part = Part(size, lambda width, height: random_crop(width, height, scale, rng))
    return _mirrored(_part(data, part, decoder, _filter(fit)), flip, rng)


def whole_pixels(data: bytes, size: int, decoder: Decoder | None = None, fit: Fit | None = None) -> Tensor:
    """`eval_pixels` of an encoded picture, decoded at full size. ImageError as `open_image`."""
    if not _cuts(size, fit):
        part = Part(size, lambda width, height: (0, 0, width, height), scaled=False)
        return _part(data, part, decoder, _filter(fit))
    if decoder == "turbo":
        return _cut_values(decode_values(data), size, fit)
    image, _ = decode(data, lambda image: None)
    return eval_pixels(image, size, decoder, fit)


def train_pixels(image: Image.Image, size: int, scale: tuple[float, float], flip: bool, rng: random.Random) -> Tensor:
    """RandomResizedCrop (area share `scale`, bicubic), then a mirror image half the time if `flip`.

    RGB picture -> uint8 [3,size,size]. Only `rng.random()` is used, whose sequence Python guarantees for a seed.
    """
    crop = image.crop(random_crop(image.width, image.height, scale, rng))
    return _mirrored(eval_pixels(crop, size), flip, rng)


def eval_pixels(image: Image.Image, size: int, decoder: Decoder | None = None, fit: Fit | None = None) -> Tensor:
    """The RGB picture as a square, by `fit` -> uint8 [3,size,size]."""
    if decoder == "turbo":
        values = np.array(image)
        return _cut_values(values, size, fit) if _cuts(size, fit) else resize(values, (size, size), _filter(fit))
    if not _cuts(size, fit):
        return _tensor(image.resize((size, size), FILTERS[_filter(fit)]))
    box, (width, height), (left, top) = _geometry(image.width, image.height, size, fit)
    made = image.crop(box).resize((width, height), FILTERS[_filter(fit)])
    return _tensor(made.crop((left, top, left + size, top + size)))


def _filter(fit: Fit | None) -> Filter:
    return "bicubic" if fit is None else fit.resample


def _cuts(size: int, fit: Fit | None) -> bool:
    """Whether the square is cut out of a picture that was resized."""
    return fit is not None and (not fit.squeeze or fit.resize not in (None, size))


def _geometry(
    width: int, height: int, size: int, fit: Fit | None
) -> tuple[tuple[int, int, int, int], tuple[int, int], tuple[int, int]]:
    """What is resized, to which width and height, and where the square begins in it; as transformers' processors."""
    assert fit is not None
    side, short = fit.resize or size, min(width, height)
    if fit.squeeze:
        wide, high, box = side, side, (0, 0, width, height)
    else:
        box = _centre(width, height, min(width, LONGEST * short), min(height, LONGEST * short))
        width, height = box[2] - box[0], box[3] - box[1]
        wide, high = (int(side * length / short) if length != short else side for length in (width, height))
    return box, (wide, high), (int((wide - size) / 2), int((high - size) / 2))


def _centre(width: int, height: int, wide: int, high: int) -> tuple[int, int, int, int]:
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def _cut_values(values: NDArray[np.uint8], size: int, fit: Fit | None) -> Tensor:
    """[h,w] or [h,w,3] -> [3,size,size]."""
    height, width = values.shape[:2]
    (left, top, right, bottom), (wide, high), (x, y) = _geometry(width, height, size, fit)
    made = resize(values[top:bottom, left:right], (high, wide), _filter(fit))
    return made.permute(1, 2, 0)[y : y + size, x : x + size].contiguous().permute(2, 0, 1)


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


def _part(data: bytes, part: Part, decoder: Decoder | None, filter_: Filter) -> Tensor:
    if decoder == "turbo":
        return part_pixels(data, part, filter_)
    image, _ = decode(data, part.limit)
    box, side = part.within(*image.size), (part.size, part.size)
    if image.size == part.whole:  # what is beyond the crop does not reach into it
        return _tensor(image.crop(part.rounded(*image.size)).resize(side, FILTERS[filter_]))
    return _tensor(image.resize(side, FILTERS[filter_], box))


def _mirrored(pixels: Tensor, flip: bool, rng: random.Random) -> Tensor:
    return pixels.flip(-1) if flip and rng.random() < 0.5 else pixels


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
