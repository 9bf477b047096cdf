"""The work before training in numbered pieces, for loader workers: which pictures there are, and their pixels."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vglm_train.config.data import Cache, Data
from vglm_train.data.features.identity import Identity, picture_digest
from vglm_train.data.features.store import row_key
from vglm_train.data.record import DamagedSample
from vglm_train.data.shards.reader import ShardReader
from vglm_train.data.shards.shard import Shard
from vglm_train.errors import UserError
from vglm_train.image import ImageError, crop_pixels

CHUNK = 64  # samples that are listed, and pictures that are encoded, at once

# A picture: number of its sample, which of the sample's pictures, digest
PICTURE = np.dtype([("sample", "<i8"), ("nth", "<i4"), ("digest", "S16")])

Item = TypeVar("Item")
Row = tuple[int, int, bytes, int]  # sample, picture of it, digest, view


def unchanged(item: Item) -> Item:
    """torch would make tensors of arrays."""
    return item


class Items(Dataset[Item]):
    """Numbered pieces of work over `total` things; a UserError is given back, as a loader would wrap it."""

    total: int
    size = CHUNK  # of a piece

    def __len__(self) -> int:
        return (self.total + self.size - 1) // self.size

    def __getitem__(self, number: int) -> Item | UserError:  # type: ignore[override]
        try:
            return self.make(range(number * self.size, min((number + 1) * self.size, self.total)))
        except UserError as error:
            return error

    def make(self, indices: range) -> Item:
        raise NotImplementedError


class _Samples:
    """All samples of some shards, numbered through."""

    def __init__(self, shards: Sequence[Shard], cache: Cache) -> None:
        self.shards, self.reader = shards, ShardReader(4, cache)
        self.starts = np.cumsum([0, *(shard.samples for shard in shards)])

    def read(self, number: int) -> tuple[bytes, ...]:
        """The pictures of a sample as they are encoded; none of a sample that cannot be read."""
        shard = int(np.searchsorted(self.starts, number, side="right")) - 1
        try:
            raw = self.reader.read(self.shards[shard], number - int(self.starts[shard]))
        except DamagedSample as damage:
            if damage.cause == "unreachable":
                raise UserError(
                    f"{damage}. Its features cannot be stored; start again once it can be reached."
                ) from None
            return ()  # training counts it
        return raw.images


class ListJobs(Items[NDArray[Any]]):
    """Pictures (PICTURE) of 64 samples."""

    def __init__(self, shards: Sequence[Shard], cache: Cache) -> None:
        self.samples = _Samples(shards, cache)
        self.total = int(self.samples.starts[-1])

    def make(self, indices: range) -> NDArray[Any]:
        found = [
            (number, nth, picture_digest(image))
            for number in indices
            for nth, image in enumerate(self.samples.read(number))
        ]
        return np.array(found, PICTURE)


Decoded = tuple[NDArray[Any], Tensor, list[tuple[bytes, str]]]


class DecodeJobs(Items[Decoded]):
    """Keys and pixels of 64 rows that are to be made, and the key and cause of those that cannot be decoded."""

    def __init__(self, data: Data, identity: Identity, shards: Sequence[Shard], rows: Sequence[Row]) -> None:
        self.image, self.identity, self.rows = data.image, identity, rows
        self.samples, self.total = _Samples(shards, data.cache), len(rows)

    def make(self, indices: range) -> Decoded:
        size, augmentation = self.identity.size, self.image
        made: list[tuple[bytes, int]] = []
        pixels: list[Tensor] = []
        damaged = []
        for sample, nth, digest, view in (self.rows[index] for index in indices):
            image = self.samples.read(sample)[nth]
            try:
                crop = self.identity.crop(digest, view)
                scale, decoder = augmentation.crop_scale, augmentation.decoder
                whole = crop_pixels(image, size, scale, False, crop, decoder, augmentation)
                mirrored = augmentation.flip and view % 2  # alike in all pictures of a dialogue
                pixels.append(whole.flip(-1) if mirrored else whole)
                made.append((digest, view))
            except ImageError as error:
                damaged.append((row_key(digest, view), error.cause))
        return row_keys(made), torch.stack(pixels) if pixels else torch.empty(0), damaged


def plain(picture: np.void) -> tuple[int, int, bytes]:
    """numpy cuts zeros off the end of bytes."""
    return int(picture["sample"]), int(picture["nth"]), bytes(picture["digest"]).ljust(16, b"\0")


def row_keys(rows: Iterable[tuple[bytes, int]]) -> NDArray[Any]:
    return np.array([row_key(digest, view) for digest, view in rows], "S20")
