"""Which part of a picture is wanted: known once its header is, before anything is decoded."""

import math
from collections.abc import Callable

from PIL import Image

from vglm_train.image.decode import orientation

Box = tuple[int, int, int, int]  # left, top, right, bottom

REVERSED_X, REVERSED_Y = (2, 3, 6, 7), (3, 4, 7, 8)  # EXIF: whose left, or top, was right or bottom as stored


class Part:
    """A part that is to be a square of `size` pixels a side.

    `choose`: width and height of the upright picture -> the part; it is called once. `scaled`: whether a JPEG may be
    decoded smaller than it is, as long as the part stays at least `size` wide and high.
    """

    def __init__(self, size: int, choose: Callable[[int, int], Box], scaled: bool = True) -> None:
        self.size, self.choose, self.scaled = size, choose, scaled
        self.turn, self.whole = 1, (0, 0)
        self.box: Box | None = None

    def limit(self, image: Image.Image) -> tuple[int, int] | None:
        """`least` of a picture as Pillow has it."""
        return self.least(*image.size, self.turn if self.box is not None else orientation(image))

    def least(self, width: int, height: int, turn: int) -> tuple[int, int] | None:
        """Of a picture as stored, the width and height that decoding must not go below; None: at full size.

        `turn`: EXIF's number for the way up.
        """
        if self.box is None:
            self.turn = turn
            self.whole = (height, width) if turn >= 5 else (width, height)
            self.box = self.choose(*self.whole)
        factor = min(self.box[2] - self.box[0], self.box[3] - self.box[1]) / self.size
        if factor < 2 or not self.scaled:
            return None
        return math.ceil(width / factor), math.ceil(height / factor)

    def within(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of the upright picture that was decoded to width x height. After `limit`."""
        assert self.box is not None
        if (width, height) == self.whole:
            return self.box
        # sizes are rounded up: the last pixel of a row, as it is stored, stands for what is left
        shrink = round(max(self.whole) / max(width, height))
        x = width - self.whole[0] / shrink if self.turn in REVERSED_X else 0.0
        y = height - self.whole[1] / shrink if self.turn in REVERSED_Y else 0.0
        left, top, right, bottom = (side / shrink for side in self.box)
        return x + left, y + top, min(x + right, width), min(y + bottom, height)

    def rounded(self, width: int, height: int) -> Box:
        """The same in whole pixels."""
        left, top, right, bottom = self.within(width, height)
        return round(left), round(top), round(right), round(bottom)
