"""How a frame is turned by the patient's position: head up, the patient's left on the right, as radiology reads it.

A direction is the letter of the patient's side that it points to: Left, Right, Anterior, Posterior, Head, Foot. Side
views and mammograms keep their left and right.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_AXES = {"L": "x", "R": "x", "A": "y", "P": "y", "H": "z", "F": "z"}
_TOWARDS = (("R", "L"), ("A", "P"), ("F", "H"))  # for each axis of DICOM's coordinates: below 0, above 0


class Turn(tuple[bool, bool, bool]):
    """Whether rows and columns are exchanged first; then whether left and right are, and top and bottom."""

    __slots__ = ()

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """[h,w,...] turned."""
        exchanged, mirrored, upturned = self
        values = np.swapaxes(values, 0, 1) if exchanged else values
        return values[:: -1 if upturned else 1, :: -1 if mirrored else 1]


NONE = Turn((False, False, False))


def find_turn(rows: str, columns: str) -> Turn:
    """The turn for a frame whose rows run, from left to right, towards the first, its columns towards the second.

    NONE where a direction is not known, or both are along one axis.
    """
    axes = _AXES.get(rows), _AXES.get(columns)
    if None in axes or axes[0] == axes[1]:
        return NONE
    exchanged = axes[0] == "z" or axes == ("y", "x")
    across, down = (columns, rows) if exchanged else (rows, columns)
    return Turn((exchanged, across == "R", down in ("H", "A")))


def of_projection(directions: Sequence[str]) -> Turn:
    """By the tag Patient Orientation. NONE where no direction is along the body: mammograms lie as they are read."""
    if len(directions) != 2 or not all(directions):
        return NONE
    rows, columns = str(directions[0])[0], str(directions[1])[0]
    if len(str(directions[0])) > 1 and not set(str(directions[0])) <= set(_AXES):  # a quadruped's
        return NONE
    return find_turn(rows, columns) if "z" in (_AXES.get(rows), _AXES.get(columns)) else NONE


def of_slice(cosines: Sequence[float]) -> Turn:
    """By the tag Image Orientation (Patient): six numbers, of which the largest of each three counts."""
    if len(cosines) != 6:
        return NONE
    rows, columns = (np.asarray(cosines[start : start + 3], float) for start in (0, 3))
    if not (np.isfinite(rows).all() and np.isfinite(columns).all() and rows.any() and columns.any()):
        return NONE
    return find_turn(_letter(rows), _letter(columns))


def _letter(direction: NDArray[Any]) -> str:
    axis = int(np.abs(direction).argmax())
    return _TOWARDS[axis][int(direction[axis] > 0)]
