"""One stored sample: its record and its encoded pictures, or the damage that keeps it from being used."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from vglm_train.data.reader import ShardReader
from vglm_train.data.record import DamagedSample, Record, RecordError, parse
from vglm_train.data.shards.manifest import Shard
from vglm_train.errors import UserError
from vglm_train.image import ImageError
from vglm_train.prompt.dialogue import ImageMarkMismatch

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class StoredSample:
    """A sample as it lies in a shard or a table."""

    key: str
    record: Record
    json: bytes  # what the record was read from
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
        return use(StoredSample(raw.key, record, raw.json, raw.images))
    except RecordError as error:
        raise DamagedSample(error.cause, shard.name, raw.key, str(error)) from None
    except ImageMarkMismatch as error:
        raise DamagedSample("record", shard.name, raw.key, str(error)) from None
    except ImageError as error:
        cause = "bomb" if error.cause == "bomb" else "image"
        raise DamagedSample(cause, shard.name, raw.key, str(error)) from None
    except UserError as error:
        raise UserError(f"{shard.where}, sample {raw.key}: {error}") from None
