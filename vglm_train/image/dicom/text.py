"""Letters burned into a picture's corners: a guess, since nobody looks at the pixels.

Devices write names and dates in the picture's brightest (or darkest) value, in lines, near a corner. A line of text
changes between two values many times a row, over as many rows as letters are high. A marker of one letter (L, R) is no
line. It misses text in the middle, in grey, on busy ground, and of fewer than about six letters.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HEURISTIC = (
    "a guess: lines of bright or dark letters are looked for in the four corners of the picture, and nowhere else; "
    "what is not found may still be there"
)

WIDE, HIGH = 0.45, 0.2  # of the picture: a corner
CHANGES = 10  # in a row: five strokes
ROWS = 5  # one below the other
STROKE = 0.12  # of a corner's width: what is brighter for longer is no stroke
CLOSE = 8  # levels from the brightest or darkest value


def has_corner_text(image: Image.Image) -> bool:
    """Whether a corner seems to hold a line of text."""
    values = np.asarray(image.convert("L"))
    height, width = values.shape
    rows, columns = max(1, round(height * HIGH)), max(1, round(width * WIDE))
    tops, lefts = (slice(0, rows), slice(height - rows, height)), (slice(0, columns), slice(width - columns, width))
    low, high = int(values.min()), int(values.max())
    if high - low < 4 * CLOSE:
        return False
    strokes = (values >= high - CLOSE, values <= low + CLOSE)
    return any(_is_text(mask[top, left]) for mask in strokes for top in tops for left in lefts)


def _is_text(mask: NDArray[np.bool_]) -> bool:
    """[h,w] True: in the value of letters. Most of a corner is not, and neither is a long piece of a row."""
    if mask.mean() > 0.3:
        return False
    changes = (mask[:, 1:] != mask[:, :-1]).sum(1)
    few = mask.sum(1) <= changes * STROKE * mask.shape[1] / 2
    line = (changes >= CHANGES) & few
    run = 0
    for each in line.tolist():
        run = run + 1 if each else 0
        if run >= ROWS:
            return True
    return False
