"""One stored sample: its record and its encoded pictures, or the damage that keeps it from being used."""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from vglm_train.config.data import Image
from vglm_train.data.features import FeatureStore
from vglm_train.data.processors import ProcessedSample, Processor, SampleContext
from vglm_train.data.record import DamagedSample, Record, RecordError, parse
from vglm_train.data.sampling.mixture import SampleRef
from vglm_train.data.shards.reader import ShardReader
from vglm_train.data.shards.shard import Shard
from vglm_train.errors import UserError
from vglm_train.image import ImageError, crop_pixels
from vglm_train.prompt.dialogue import ImageMarkMismatch

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class StoredSample:
    """A sample as it lies in a shard or a table."""

    key: str
    record: Record
    images: tuple[bytes, ...]  # as encoded; one at least

    @property
    def image_id(self) -> int:
        return self.record.picture_id(self.images[0])


def use_sample(reader: ShardReader, shard: Shard, index: int, use: Callable[[StoredSample], Result]) -> Result:
    """What `use` makes of sample `index` of `shard`.

    DamagedSample says what is wrong with the sample: it cannot be read, its record is none, pictures are missing, or
    `use` raised RecordError, ImageMarkMismatch or ImageError. A UserError from `use` gets the sample's name.
    """
    raw = reader.read(shard, index)
    try:
        record = parse(raw.json)
        if record.more and len(record.more) != len(raw.more):
            raise RecordError("image", f"the record names {1 + len(record.more)} pictures, {len(raw.images)} are there")
        return use(StoredSample(raw.key, record, raw.images))
    except RecordError as error:
        raise DamagedSample(error.cause, shard.name, raw.key, str(error)) from None
    except ImageMarkMismatch as error:
        raise DamagedSample("record", shard.name, raw.key, str(error)) from None
    except ImageError as error:
        cause = "bomb" if error.cause == "bomb" else "image"
        raise DamagedSample(cause, shard.name, raw.key, str(error)) from None
    except UserError as error:
        raise UserError(f"{shard.where}, sample {raw.key}: {error}") from None


@dataclass(frozen=True, slots=True)
class SampleBuilder:
    """What makes a training sample of a stored one: the seed, the stage's processor, picture side and augmentation."""

    seed: int
    processor: Processor
    size: int
    image: Image
    keys: bool = False  # whether batches carry the keys of their samples
    features: FeatureStore | None = None  # what pictures were encoded to, instead of their pixels

    def build(self, stored: StoredSample, position: SampleRef) -> "Sample":
        """Process its text, then its pictures. Errors as `use_sample` takes them."""
        epoch, language = position.epoch, position.subset.language
        rng = sample_rng(self.seed, epoch, stored.key)
        context = SampleContext(stored.key, epoch, len(stored.images))
        processed = self.processor.process(stored.record, rng, language, context)
        pixels = self.pictures(stored.images[: processed.images], epoch, rng)
        return Sample(stored.key, pixels, stored.image_id, processed)

    def pictures(self, images: Sequence[bytes], epoch: int, rng: random.Random) -> Tensor:
        """Encoded pictures of one sample -> uint8 pixels [k,3,h,w], or their stored features [k,p,c].

        ImageError where one cannot be decoded.
        """
        if self.features is not None:
            rows = [self.features.read(image, epoch)[None] for image in images]
            none = torch.zeros(0, *self.features.shape, dtype=self.features.dtype)
            return rows[0] if len(rows) == 1 else torch.cat([none, *rows])  # one of ViT-g/14, 0.7 MB, is not copied
        return sample_pixels(images, self.size, self.image, rng)

    def blank(self) -> Tensor:
        """What stands for a damaged row's picture [1,...]."""
        if self.features is not None:
            return torch.zeros(1, *self.features.shape, dtype=self.features.dtype)
        return torch.zeros(1, self.size, self.size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)

    def fields(self, pictures: Tensor) -> dict[str, Tensor]:
        """The fields of a Batch that hold pictures [n,...]."""
        if self.features is not None:
            return {"pixels": torch.empty(0, dtype=torch.uint8), "features": pictures}
        return {"pixels": pictures}


@dataclass(frozen=True, slots=True)
class Sample:
    """One training sample, processed and augmented."""

    key: str
    pixels: Tensor  # [k,3,h,w] uint8: the pictures that its row shows; features [k,p,c] where they are stored
    image_id: int
    processed: ProcessedSample


def sample_rng(seed: int, epoch: int, key: str) -> random.Random:
    """All randomness of a sample: which caption, which crop, which way round."""
    digest = hashlib.blake2b(f"{seed} {epoch} {key}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return random.Random(int.from_bytes(digest))


def read_sample(reader: ShardReader, position: SampleRef, builder: SampleBuilder) -> Sample:
    """Read and build the sample at a position of the stream. DamagedSample where it cannot be used."""
    shard, language = position.shard, position.subset.language
    index = position.nth if language is None else reader.nth(shard, position.nth, language)
    return use_sample(reader, shard, index, lambda stored: builder.build(stored, position))


def _joined(pictures: Sequence[Tensor]) -> Tensor:
    """k of [3,h,w] -> [k,3,h,w], with a pixel's bytes side by side in memory if the first has them so."""
    if pictures[0].stride(0) != 1:
        return torch.stack(list(pictures))
    rows = [picture.permute(1, 2, 0) for picture in pictures]
    return (torch.stack(rows) if len(rows) > 1 else rows[0][None]).permute(0, 3, 1, 2)


def sample_pixels(images: Sequence[bytes], size: int, augmentation: Image, rng: random.Random) -> Tensor:
    """The pictures of one sample, augmented -> uint8 [k,3,size,size]: a crop each, and all mirrored or none.

    A single one is cropped and mirrored as by `crop_pixels`. ImageError as `open_image`.
    """
    if not images:
        return torch.zeros(0, 3, size, size, dtype=torch.uint8)
    scale, decoder = augmentation.crop_scale, augmentation.decoder
    first = crop_pixels(images[0], size, scale, False, rng, decoder, augmentation)
    mirrored = augmentation.flip and rng.random() < 0.5
    others = [crop_pixels(image, size, scale, False, rng, decoder, augmentation) for image in images[1:]]
    pixels = _joined([first, *others])
    return pixels.flip(-1) if mirrored else pixels
