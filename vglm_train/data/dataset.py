"""The stream: micro-batch number -> Batch, the same whichever worker reads it and however often.

The stream is one line of places; what stands at each is `Mixture`'s to say. Global batch g is places [g*G, (g+1)*G);
within it micro-batch m of rank r is the `micro` places from g*G + (m*world + r)*micro. So a place in the line is all
there is to remember, and any number of ranks and workers reads the same samples. Where like lengths are to meet,
`lengths.ByLength` says in which order a global batch takes its places. A damaged sample leaves its row empty and is
counted.
"""

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vglm_train.batch import Batch
from vglm_train.config.check import Split
from vglm_train.config.data import Cache, Image
from vglm_train.data.features import FeatureStore
from vglm_train.data.processors import ProcessedSample, Processor, SampleContext
from vglm_train.data.reader import ShardReader
from vglm_train.data.record import DamagedSample, RecordError, content_id, parse
from vglm_train.data.remote.prefetch import ShardPrefetch
from vglm_train.data.sampling.mixture import Mixture, Position
from vglm_train.errors import UserError
from vglm_train.image import ImageError, crop_pixels

NAMED = 10  # damaged samples a worker names, of one cause in one epoch

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Samples:
    """What a training sample becomes: seed, reading of its text, picture side and augmentation."""

    seed: int
    rows: Processor
    size: int
    image: Image
    keys: bool = False  # batches tell the keys of their samples
    stored: FeatureStore | None = None  # what pictures were encoded to, instead of their pixels

    def pictures(self, images: Sequence[bytes], epoch: int, rng: random.Random) -> Tensor:
        """Encoded pictures of one sample -> uint8 pixels [k,3,h,w], or their stored features [k,p,c].

        ImageError where one cannot be decoded.
        """
        if self.stored is not None:
            rows = [self.stored.read(image, epoch) for image in images]
            return torch.stack(rows) if rows else torch.zeros(0, *self.stored.shape, dtype=self.stored.dtype)
        return sample_pixels(images, self.size, self.image, rng)

    def blank(self) -> Tensor:
        """What stands for a damaged row's picture [1,...]."""
        if self.stored is not None:
            return torch.zeros(1, *self.stored.shape, dtype=self.stored.dtype)
        return torch.zeros(1, 3, self.size, self.size, dtype=torch.uint8)

    def fields(self, pictures: Tensor) -> dict[str, Tensor]:
        """The fields of a Batch that hold pictures [n,...]."""
        if self.stored is not None:
            return {"pixels": torch.empty(0, dtype=torch.uint8), "features": pictures}
        return {"pixels": pictures}


@dataclass(frozen=True, slots=True)
class Sample:
    """One training sample, read and augmented."""

    key: str
    pixels: Tensor  # [k,3,h,w] uint8: the pictures that its row shows; features [k,p,c] where they are stored
    image_id: int
    drawn: ProcessedSample


def sample_rng(seed: int, epoch: int, key: str) -> random.Random:
    """All randomness of a sample: which caption, which crop, which way round."""
    digest = hashlib.blake2b(f"{seed} {epoch} {key}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return random.Random(int.from_bytes(digest))


def read_sample(reader: ShardReader, place: Position, how: Samples) -> Sample:
    """Read and augment the sample at a place of the stream. DamagedSample where it cannot be used."""
    shard, language = place.shard, place.pool.language
    raw = reader.read(shard, place.nth if language is None else reader.nth(shard, place.nth, language))
    try:
        record = parse(raw.json)
        rng = sample_rng(how.seed, place.epoch, raw.key)
        if record.more and len(record.more) != len(raw.more):
            reason = f"the record names {1 + len(record.more)} pictures, {1 + len(raw.more)} are there"
            raise DamagedSample("image", shard.name, raw.key, reason)
        drawn = how.rows.read(record, rng, language, SampleContext(raw.key, place.epoch, 1 + len(raw.more)))
        pixels = how.pictures((raw.image, *raw.more)[: drawn.images], place.epoch, rng)
    except RecordError as error:
        raise DamagedSample(error.cause, shard.name, raw.key, str(error)) from None
    except ImageError as error:
        cause = "bomb" if error.cause == "bomb" else "image"
        raise DamagedSample(cause, shard.name, raw.key, str(error)) from None
    except UserError as error:
        raise UserError(f"{shard.where}, sample {raw.key}: {error}") from None
    image_id = content_id(raw.image) if record.image_id is None else record.image_id
    return Sample(raw.key, pixels, image_id, drawn)


def sample_pixels(pictures: Sequence[bytes], size: int, how: Image, rng: random.Random) -> Tensor:
    """The pictures of one sample, augmented -> uint8 [k,3,size,size]: a crop each, and all mirrored or none.

    A single one is drawn as `crop_pixels` draws it. ImageError as `open_image`.
    """
    if not pictures:
        return torch.zeros(0, 3, size, size, dtype=torch.uint8)
    first = crop_pixels(pictures[0], size, how.crop_scale, False, rng)
    mirrored = how.flip and rng.random() < 0.5
    pixels = torch.stack([first, *(crop_pixels(picture, size, how.crop_scale, False, rng) for picture in pictures[1:])])
    return pixels.flip(-1) if mirrored else pixels


class StreamDataset(Dataset):
    """Micro-batches of one rank by number, counted from the start of the stream; it has no end.

    A mistake of the user's comes back as a UserError value, because a DataLoader would wrap it in a traceback.
    """

    def __init__(
        self,
        mixture: Mixture,
        epoch_samples: int,
        how: Samples,
        global_batch: int,
        cut: Split,
        rank: int,
        world: int,
        cache: Cache | None = None,
    ) -> None:
        """`epoch_samples`: samples of all sources together; `cache`: for remote shards."""
        self.mixture, self.epoch_samples, self.how = mixture, epoch_samples, how
        self.global_batch, self.cut, self.rank, self.world = global_batch, cut, rank, world
        windows = [pool.order.window for pool, _ in mixture.shares()]
        self.reader = ShardReader(2 * sum(windows), cache)  # a batch may straddle two windows of each pool
        self.ahead = ShardPrefetch(mixture, self.reader.store)
        self.seats: Callable[[int], NDArray[np.int64]] | None = None  # step -> places of its rows; None: as they come
        self.log = _DamageLog()

    def __getitem__(self, number: int) -> Batch | UserError:
        try:
            self.ahead.at(self.mixture.at(self.first_row(number)))  # before lengths are looked up
            return self._batch(self.first_row(number), self.positions(number))
        except UserError as error:
            return error

    def first_row(self, number: int) -> int:
        """Place in the stream of the first row of micro-batch `number`."""
        step, part = divmod(number, self.cut.accumulation)
        return step * self.global_batch + (part * self.world + self.rank) * self.cut.micro

    def positions(self, number: int) -> Sequence[int]:
        """Places in the stream of the rows of micro-batch `number`."""
        first = self.first_row(number)
        if self.seats is None:
            return range(first, first + self.cut.micro)
        step, start = divmod(first, self.global_batch)
        return self.seats(step)[start : start + self.cut.micro].tolist()

    def _batch(self, first: int, places: Sequence[int]) -> Batch:
        how, number = self.how, self.cut.micro
        pixels = [how.blank()] * number  # a damaged row's picture
        image_ids = torch.full((number,), -1, dtype=torch.int64)
        valid = torch.zeros(number, dtype=torch.bool)
        rows: list[Any | None] = [None] * number
        keys: list[str] = []
        damaged: Counter[str] = Counter()
        drawn: Counter[str] = Counter()
        epoch = first // self.epoch_samples
        for row, where in enumerate(places):
            place = self.mixture.at(where)
            self.ahead.at(place)
            try:
                sample = read_sample(self.reader, place, how)
            except DamagedSample as error:
                keys.append(f"{place.source}/{error.shard}/{error.key}")
                damaged[error.cause] += 1
                self.log.note(error, epoch)
                continue
            keys.append(f"{place.source}/{place.shard.name}/{sample.key}")
            drawn.update((place.source, sample.drawn.language))
            pixels[row], rows[row], image_ids[row], valid[row] = sample.pixels, sample.drawn.row, sample.image_id, True
        facts = {**how.fields(torch.cat(pixels)), "valid": valid, "first_row": first, "epoch": epoch}
        facts["keys"] = tuple(keys) if how.keys else ()
        return how.rows.batch(rows, image_ids, damaged=dict(damaged), sample_counts=dict(drawn), **facts)


class _DamageLog:
    """Names damaged samples in the log, the first few of each cause in each epoch."""

    def __init__(self) -> None:
        self.epoch = -1
        self.counts: Counter[str] = Counter()

    def note(self, damage: DamagedSample, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch = epoch
            self.counts.clear()
        self.counts[damage.cause] += 1
        if self.counts[damage.cause] <= NAMED:
            logger.warning("damaged sample in %s", damage)
        if self.counts[damage.cause] == NAMED:
            logger.warning("further samples of cause %s are only counted, until the next epoch", damage.cause)
