"""Whether the pictures that a table names are still the same files, told from a part of them."""

import hashlib
import heapq
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vglm_train.data.record import DamagedSample
from vglm_train.data.tables.table import TableSlice

SIZED = 5000  # rows whose pictures' sizes are compared
READ = 64  # rows whose pictures' bytes are


def picture_state(slices: Sequence[TableSlice]) -> str:
    """Sizes of the pictures of SIZED rows and content of those of READ rows, as words and a digest.

    The rows are chosen by a hash of what they say, so they are the same as long as the table is.
    """
    rows = ((int(each.table.index.contents[row]), each, n) for each in slices for n, row in enumerate(each.rows))
    digest, pictures = hashlib.sha256(), 0
    for number, (_, each, index) in enumerate(heapq.nsmallest(SIZED, rows, key=lambda entry: entry[0])):
        for name in _names(each, index):
            pictures += 1
            digest.update(_of(name, number < READ))
    return f"{pictures} compared ({digest.hexdigest()[:16]})"


def _names(part: TableSlice, index: int) -> list[Path | bytes]:
    """A row's pictures, as files or bytes; none of a damaged row."""
    try:
        return part.table.picture_files(part.name, int(part.rows[index]))
    except DamagedSample:
        return []


def _of(picture: Path | bytes, read: bool) -> bytes:
    if isinstance(picture, bytes):
        return np.int64(len(picture)).tobytes()
    try:
        return hashlib.sha256(picture.read_bytes()).digest() if read else np.int64(picture.stat().st_size).tobytes()
    except (OSError, ValueError):  # a name that no file can have
        return b"absent"
