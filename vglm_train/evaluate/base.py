"""What every evaluator returns beside its scores: tables of examples to look at."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ImageTable:
    """Examples to look at. Each row has a cell for each of `columns`."""

    name: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Image.Image | str | float]]


def to_pil(pixels: Tensor) -> Image.Image:
    """[3,h,w] uint8 -> the same image for PIL."""
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())
