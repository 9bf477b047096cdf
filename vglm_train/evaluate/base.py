"""What every evaluation gives."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ImageTable:
    """Examples to look at."""

    name: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Image.Image | str | float]]


def picture(pixels: Tensor) -> Image.Image:
    """[3,h,w] uint8 -> what a person sees."""
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())
