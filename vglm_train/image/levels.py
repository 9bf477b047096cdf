"""Black and white of pictures whose values have more than 8 bits: one rule, which reads nothing but the file itself.

1. Integers from 0 to 65535: white is the largest value of the number of bits that the file gives, else of the smallest
   of 8, 10, 12, 14 and 16 bits that hold its largest value.
2. Floating point from 0 to 1: 1 is white.
3. Anything else, such as Hounsfield units: the smallest value is black, the largest is white.

A picture of one value is black under rule 3. Values that are not finite have no level: that picture cannot be used.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vglm_train.image.errors import ImageError

BITS = (8, 10, 12, 14, 16)
STRETCHED = "smallest to largest value"


def to_8_bits(values: NDArray[Any], bits: int | None = None) -> tuple[NDArray[np.uint8], str]:
    """Integers or floats of any shape -> levels of the same shape, and the range that was taken, in words.

    `bits`: how many the file says that its integers have. ImageError where values are not finite.
    """
    low, high = values.min(), values.max()
    if not np.isfinite(low) or not np.isfinite(high):
        raise ImageError("undecodable", "some of its values are NaN or infinite: replace them first")
    if np.issubdtype(values.dtype, np.floating):
        return (_linear(values, 0, 1), "0 to 1") if low >= 0 and high <= 1 else (_linear(values, low, high), STRETCHED)
    if low < 0 or high > 65535:
        return _linear(values, low, high), STRETCHED
    bits = bits or bits_of(int(high))
    return _table(bits)[np.minimum(values, (1 << bits) - 1)], f"{bits} bits"


def bits_of(largest: int) -> int:
    """The smallest of BITS that hold a value up to 65535."""
    return next(bits for bits in BITS if largest < 1 << bits)


def are_scaled_up(values: NDArray[Any], bits: int) -> bool:
    """Whether 16-bit values are ones of `bits` bits spread over the whole range, as the PNG standard wants them: the
    lower bits are zeros, or repeat the upper ones."""
    top, below = values >> (16 - bits), 16 - bits
    zeros = top << below
    repeated = zeros | (top >> (bits - below) if bits >= below else zeros)
    return bool((values == zeros).all() or (values == repeated).all())


def _table(bits: int) -> NDArray[np.uint8]:
    """The level of each integer of `bits` bits, rounded."""
    white = (1 << bits) - 1
    return ((np.arange(white + 1, dtype=np.uint32) * 255 + white // 2) // white).astype(np.uint8)


def _linear(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """`low` is black and `high` white; all black where they are one."""
    if low == high:
        return np.zeros(values.shape, np.uint8)
    share = (values.astype(np.float64) - float(low)) / (float(high) - float(low))
    return np.floor(share * 255 + 0.5).astype(np.uint8)
