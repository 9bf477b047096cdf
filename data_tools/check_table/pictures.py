"""Pictures as `check_table` opens them: whether they decode, and which of them show one picture.

On 346 chest X-rays, which look much alike, no two different ones were called one. Found were all copies stored anew as
JPEG of quality 40, shrunk by half or brightened, 99 % of those with more contrast, and 94 % of those cropped by 2 % on
each side.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_tools.common.image_hash import DECODED, THUMBNAIL, compare, image_hash
from vglm_train.data.record import content_id
from vglm_train.data.tables.image_paths import refused
from vglm_train.data.tables.pictures import decode_fault
from vglm_train.files import read_at
from vglm_train.image import ImageError, examine_image

DISTANCE = 8  # bits of 64 that two pictures' hashes differ by at most: 1 in 2,600 pairs of different X-rays does
AGREEMENT = 0.94  # of edges, from 0 to 1, that makes two pictures one
COMPARED = 256  # pictures whose hashes are compared in one go


class OpenedPicture(NamedTuple):
    """A picture that was opened. `damage`: what is wrong with it, as a cause, a colon and what is special about it;
    then it has neither hash nor thumbnail."""

    content: int  # content_id of the file
    hash: int = 0  # 64 bits
    thumbnail: bytes = b""  # an entry of THUMBNAIL
    damage: str | None = None
    notes: tuple[str, ...] = ()  # what was inferred in decoding it


def open_picture(data: bytes) -> OpenedPicture:
    """Decode in full, as training does."""
    try:
        image, notes = examine_image(data)
    except ImageError as error:
        return OpenedPicture(content_id(data), damage=decode_fault(error))
    found = image_hash(image.reduce(max(1, min(image.size) // DECODED)))
    thumbnail = np.array((found.grey, found.colours), dtype=THUMBNAIL)
    return OpenedPicture(content_id(data), found.hash, thumbnail.tobytes(), None, notes)


def open_file(path: Path) -> OpenedPicture:
    """`open_picture` of a file; what workers run."""
    try:
        return open_picture(path.read_bytes())
    except OSError as error:
        return OpenedPicture(0, damage=refused(path, error))


@dataclass(slots=True)
class OpenedPictures:
    """By number. Thumbnails are in a temporary file, so that memory does not grow by a picture's size."""

    known: dict[int, OpenedPicture] = field(default_factory=dict)  # without thumbnails
    file: IO[bytes] = field(default_factory=TemporaryFile)

    def add(self, number: int, picture: OpenedPicture) -> None:
        self.known[number] = picture._replace(thumbnail=b"")
        self.file.seek(number * THUMBNAIL.itemsize)
        self.file.write(picture.thumbnail)

    def thumbnails(self, numbers: Sequence[int]) -> NDArray[Any]:
        """[numbers] of THUMBNAIL"""
        size = THUMBNAIL.itemsize
        self.file.flush()
        rows = [read_at(self.file.fileno(), size, number * size) for number in numbers]
        return np.frombuffer(b"".join(rows), THUMBNAIL)

    def hashes(self) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64]]:
        """Number, hash and content [n] of those that could be decoded."""
        whole = [(number, each) for number, each in self.known.items() if each.damage is None]
        return (
            np.array([number for number, _ in whole], dtype=np.int64),
            np.array([each.hash for _, each in whole], dtype=np.uint64),
            np.array([each.content for _, each in whole], dtype=np.int64),
        )


def find_same(first: OpenedPictures, second: OpenedPictures) -> Iterator[tuple[int, int, float]]:
    """Numbers of a picture in `first` and of one in `second` that show the same in different files, and how well their
    edges agree: for each of `second` the one that agrees best."""
    numbers, hashes, contents = first.hashes()
    others, other_hashes, other_contents = second.hashes()
    for start in range(0, len(others), COMPARED):
        block = slice(start, start + COMPARED)
        near = np.bitwise_count(other_hashes[block, None] ^ hashes[None]) <= DISTANCE
        near &= other_contents[block, None] != contents[None]
        for row in np.flatnonzero(near.any(1)):
            candidates, other = numbers[near[row]], int(others[start + row])
            thumbnails = np.repeat(second.thumbnails([other]), len(candidates))
            scores = compare(first.thumbnails(candidates.tolist()), thumbnails, AGREEMENT)
            if scores.max() >= AGREEMENT:
                yield int(candidates[scores.argmax()]), other, float(scores.max())
