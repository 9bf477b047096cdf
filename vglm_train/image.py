"""From image files to pixels: decoding, and BLIP-2's training and evaluation transforms."""

import io
import math
import random
import warnings
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 89_478_485  # a larger picture counts as a decompression bomb: 256 MiB as RGB
RATIO = (3 / 4, 4 / 3)  # width over height of a training crop, as torchvision's RandomResizedCrop
ATTEMPTS = 10  # to sample a crop that fits, as torchvision

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
_REVERSED_X, _REVERSED_Y = (2, 3, 6, 7), (3, 4, 7, 8)  # whose left, or top, was right or bottom as stored


class ImageError(Exception):
    """A picture that cannot be used. `cause` is "undecodable" or "bomb"."""

    def __init__(self, cause: str, reason: str = "") -> None:
        super().__init__(cause, reason)  # as they are, for pickle
        self.cause, self.reason = cause, reason

    def __str__(self) -> str:
        return f"{self.cause}: {self.reason}" if self.reason else self.cause


def open_image(data: bytes, smallest: int | None = None) -> Image.Image:
    """Bytes of a JPEG, PNG or WEBP -> an upright RGB picture, decoded in full.

    The EXIF orientation is applied. 16-bit grey is scaled so that 65535 is white, and transparency becomes white. CMYK
    is read with Adobe's inverted inks, as all common JPEG writers store them. Of an animation the first frame is taken.
    `smallest`: a large JPEG may be decoded at 1/2, 1/4 or 1/8 as long as both sides stay at least that long.
    Raises ImageError: "bomb" above MAX_PIXELS (judged by the header), else "undecodable", also for a file cut short.
    """
    return _open(data, lambda image: None if smallest is None else (smallest, smallest))


def upright_rgb(image: Image.Image) -> Image.Image:
    """A picture that is in memory already, made upright and RGB as `open_image` does. ImageError as there."""
    if image.width * image.height > MAX_PIXELS:
        raise ImageError("bomb", f"{image.width} x {image.height} pixels")
    try:
        image.load()
        return _upright(_rgb(image), image)
    except Exception as error:  # a lazily opened file may be damaged in any way
        raise ImageError("undecodable", f"{type(error).__name__}: {error}") from error


def crop_pixels(data: bytes, size: int, scale: tuple[float, float], flip: bool, rng: random.Random) -> Tensor:
    """`train_pixels` of an encoded picture, decoded only as large as its crop needs.

    The crop is sampled first. Then a JPEG is decoded at the smallest of 1, 1/2, 1/4, 1/8 of its size that leaves the
    crop at least `size` wide and high. At full size the pixels equal those of `train_pixels`, below it they differ by
    less than 2 of 255 levels on average, since JPEG shrinks by its own filter. ImageError as `open_image`.
    """
    whole, box, orientation = (0, 0), (0, 0, 0, 0), 1

    def limit(image: Image.Image) -> tuple[int, int] | None:
        nonlocal whole, box, orientation
        orientation = _orientation(image)
        whole = (image.height, image.width) if orientation >= 5 else image.size
        box = random_crop(*whole, scale, rng)
        factor = min(box[2] - box[0], box[3] - box[1]) / size
        return (math.ceil(image.width / factor), math.ceil(image.height / factor)) if factor >= 2 else None

    image = _open(data, limit)
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


def _open(data: bytes, limit: Callable[[Image.Image], tuple[int, int] | None]) -> Image.Image:
    """`limit`: of the picture as stored, the width and height that a JPEG's scaled decoding must not go below."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata without naming the file
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise ImageError("bomb", f"{image.width} x {image.height} pixels")
            least = limit(image)
            if least is not None:
                image.draft(None, least)
            image.load()
            return _upright(_rgb(image), image)
        except Image.DecompressionBombError as error:
            raise ImageError("bomb", str(error)) from None
        except ImageError:
            raise
        except UnidentifiedImageError:  # whose text names an object in memory
            raise ImageError("undecodable", f"no {', '.join(FORMATS[:-1])} or {FORMATS[-1]}") from None
        except Exception as error:  # Pillow's decoders raise nearly anything on hostile bytes
            raise ImageError("undecodable", f"{type(error).__name__}: {error}") from error


def _finish(crop: Image.Image, flip: bool, rng: random.Random) -> Tensor:
    return _tensor(ImageOps.mirror(crop) if flip and rng.random() < 0.5 else crop)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; convert() would cut it off at 255
        levels = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright(image: Image.Image, source: Image.Image) -> Image.Image:
    method = _TRANSPOSES.get(_orientation(source))
    return image if method is None else image.transpose(method)


def _orientation(image: Image.Image) -> int:
    """EXIF's number from 1 to 8; 5 and above turn the picture on its side."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
        return value if value in _TRANSPOSES else 1
    except Exception:  # damaged EXIF is no reason to lose the picture
        return 1


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
