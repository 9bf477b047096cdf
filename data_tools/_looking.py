"""Pictures as `check_table` sees them: whether they decode, and a hash that survives saving them anew.

The hash is a difference hash (Krawetz, 2013) of 16 x 16 bits. On 341 chest X-rays, which look much alike, different
pictures were 38 bits apart and more across patients, and the same ones, saved at JPEG quality 40, resized by a third or
brightened, mostly under 18; the usual 8 x 8 bits put different X-rays 2 bits apart.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vglm_train.data.record import content_id
from vglm_train.image import ImageError, open_image

SIDE = 16
NEAR = 20  # bits of 256 by which two pictures may differ and still be called one
BLOCK = 256  # pictures compared at once


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture that was looked at; `damage`: what is wrong with it, then it has no hash."""

    content: int  # content_id of the file
    hash: tuple[int, ...]  # 4 x 64 bits
    damage: str | None = None


def look(data: bytes) -> Seen:
    """Decode in full, as training does."""
    try:
        image = open_image(data)
    except ImageError as error:
        return Seen(content_id(data), (), str(error))
    small = image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX)
    levels = np.asarray(small, dtype=np.int16)
    bits = np.packbits((levels[:, 1:] > levels[:, :-1]).ravel())
    return Seen(content_id(data), tuple(bits.view(np.uint64).tolist()))


def look_at(path: Path) -> Seen:
    """`look` of a file; what workers run."""
    try:
        return look(path.read_bytes())
    except OSError as error:
        return Seen(0, (), error.strerror or str(error))


def near(first: Sequence[Seen], second: Sequence[Seen], bits: int = NEAR) -> Iterator[tuple[int, int, int]]:
    """Places of pictures in `first` and in `second` that look alike, and by how many bits they differ: for each of
    `second` the nearest that is not the same file's content."""
    rows = [place for place, seen in enumerate(first) if seen.hash]
    hashes = _hashes(first, rows)
    others = [place for place, seen in enumerate(second) if seen.hash]
    contents = np.array([first[place].content for place in rows], dtype=np.int64)
    for start in range(0, len(others) if rows else 0, BLOCK):
        block = others[start : start + BLOCK]
        apart = np.bitwise_count(_hashes(second, block)[:, None] ^ hashes[None]).sum(-1, dtype=np.int64)
        same = np.array([second[place].content for place in block])[:, None] == contents[None]
        apart[same] = SIDE * SIDE + 1
        nearest = apart.argmin(1)
        for row, place in enumerate(block):
            if apart[row, nearest[row]] <= bits:
                yield rows[int(nearest[row])], place, int(apart[row, nearest[row]])


def _hashes(seen: Sequence[Seen], places: Sequence[int]) -> NDArray[np.uint64]:
    """[places, 4]"""
    return np.array([seen[place].hash for place in places], dtype=np.uint64).reshape(-1, SIDE * SIDE // 64)
