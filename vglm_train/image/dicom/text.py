"""Letters burned into a picture's corners: a guess, since nobody looks at the pixels.

Devices write names and dates in the picture's brightest (or darkest) value, in lines, near a corner. A line of text
has many sharp strokes a row, over as many rows as letters are high. A marker of one letter (L, R) is no line. It misses
text in the middle, in grey, on busy ground, and of fewer than about six letters.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HEURISTIC = (
    "a guess: lines of bright or dark letters are looked for in the four corners of the picture, and nowhere else; "
    "what is not found may still be there"
)

WIDE, HIGH = 0.45, 0.2  # of the picture: a corner
STROKES = 6  # in a row
ROWS = 5  # one below the other
WIDEST = 0.06  # of a corner's width, on average: what goes on for longer is no stroke
CLOSE = 12  # levels from the brightest or darkest value
SHARP, EDGE = 64, 3  # levels that a stroke's ground is apart from it, this many pixels further


def has_corner_text(image: Image.Image) -> bool:
    """Whether a corner seems to hold a line of text."""
    values = np.asarray(image.convert("L"))
    height, width = values.shape
    rows, columns = max(1, round(height * HIGH)), max(1, round(width * WIDE))
    tops, lefts = (slice(0, rows), slice(height - rows, height)), (slice(0, columns), slice(width - columns, width))
    low, high = int(values.min()), int(values.max())
    if high - low < SHARP:
        return False
    corners = [values[top, left].astype(np.int16) for top in tops for left in lefts]
    return any(_is_text(corner - low) or _is_text(high - corner) for corner in corners)


def _is_text(apart: NDArray[np.int16]) -> bool:
    """[h,w] how far each pixel is from the value of letters."""
    ink = apart <= CLOSE
    above, below = np.zeros_like(ink), np.zeros_like(ink)
    above[1:], below[:-1] = ink[:-1], ink[1:]
    ink &= above | below  # strokes go on in the next row, noise does not
    if not ink.any() or ink.mean() > 0.3:
        return False
    starts = ink[:, :-EDGE] & ~ink[:, 1 : 1 - EDGE or None] & (apart[:, EDGE:] >= SHARP)
    strokes = starts.sum(1)
    line = (strokes >= STROKES) & (ink.sum(1) <= strokes * WIDEST * ink.shape[1])
    run = 0
    for each in line.tolist():
        run = run + 1 if each else 0
        if run >= ROWS:
            return True
    return False
