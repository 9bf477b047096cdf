"""Records with their pictures, in blocks, from records files and from folders of shards."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from data_tools.common.image_bytes import read_file
from vglm_train.data.record import DamagedSample, Record, RecordError, parse
from vglm_train.data.shards.manifest import Manifest
from vglm_train.data.shards.reader import ShardReader
from vglm_train.data.shards.shard import Shard
from vglm_train.errors import UserError
from vglm_train.image import ImageError, open_image

FIRST = 20  # first lines of a file, of which one at least must be meant as a record


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring records of one input."""

    number: int
    first: int  # row of its first record, counted through all inputs
    count: int
    path: Path  # records file, or tar
    offset: int  # byte of its first record in a records file; index of its first sample in a shard
    line: int = 0  # of a records file, from 1
    shard: Shard | None = None


@dataclass(frozen=True, slots=True)
class Inputs:
    """The input files of a tool. `identity`: equal where the records are."""

    blocks: tuple[Block, ...]
    identity: tuple[str, ...]

    @property
    def records(self) -> int:
        return sum(block.count for block in self.blocks)


@dataclass(slots=True)
class RecordItem:
    """A record, or what is wrong with it, and where its picture is."""

    row: int
    where: str  # "records.jsonl line 12", "shard-000001.tar 000000012"
    fields: dict[str, Any]  # the record as it is written; empty where it cannot be read
    parsed: Record | RecordError
    source: Path | bytes | None  # the picture

    @property
    def id(self) -> str:
        return str(self.fields.get("id") or self.where)

    @property
    def record(self) -> Record:
        """RecordError where the record cannot be used."""
        if isinstance(self.parsed, RecordError):
            raise self.parsed
        return self.parsed

    def image(self) -> bytes:
        """The picture's bytes. RecordError where there is none, UserError where a drive is gone."""
        if isinstance(self.source, bytes):
            return self.source
        try:
            return read_file(self.source or Path())
        except ImageError as error:
            raise RecordError(error.cause, error.reason) from None

    def image_id(self, data: bytes) -> int:
        return self.record.picture_id(data)

    def picture(self, smallest: int | None = None) -> Image.Image:
        """Upright RGB; `smallest` as `vglm_train.image.open_image`. RecordError where it cannot be decoded."""
        return open_picture(self.image(), smallest)


def open_picture(data: bytes, smallest: int | None = None) -> Image.Image:
    """`open_image` whose ImageError is a RecordError."""
    try:
        return open_image(data, smallest)
    except ImageError as error:
        raise RecordError(error.cause, str(error)) from None


def open_inputs(paths: Sequence[Path], size: int, shards: bool = True) -> Inputs:
    """Cut records files, and folders of shards where they are allowed, into blocks of `size` records.

    One pass over each records file; of shards, the manifest is read. UserError for what is missing or empty.
    """
    blocks: list[Block] = []
    identity = []
    for path in paths:
        if path.is_dir() or path.name == "manifest.json":
            if not shards:
                raise UserError(f"{path}: give the records file that these shards were packed from (--out names files)")
            identity.append(_cut_shards(path, size, blocks))
        elif path.is_file():
            _refuse_table(path)
            identity.append(_cut_records(path, size, blocks))
        else:
            raise UserError(f"{path}: no such file; make it with vglm data convert")
    return Inputs(tuple(blocks), tuple(identity))


def _refuse_table(path: Path) -> None:
    """UserError where none of the first lines is meant as a record: a table of questions is another thing."""
    with open(path, "rb") as file:
        lines = list(islice((line for line in file if line.strip()), FIRST))
    if lines and not any(_fields_of(line).keys() & {"captions", "turns"} for line in lines):
        raise UserError(
            f"{path}: holds no records, which are lines with `captions` or `turns`. To look through a table of "
            f"questions (JSON, CSV): vglm data check_table {path}. To make records of captions: "
            "vglm data convert"
        )


def _next(blocks: list[Block]) -> tuple[int, int]:
    """Number and first row of the block after the last."""
    return (blocks[-1].number + 1, blocks[-1].first + blocks[-1].count) if blocks else (0, 0)


def _cut_records(path: Path, size: int, blocks: list[Block]) -> str:
    digest, offset, start, start_line, count, before = hashlib.sha256(), 0, 0, 1, 0, len(blocks)
    with open(path, "rb") as file:
        for line_number, line in enumerate(file, 1):
            digest.update(line)
            if line.strip():
                if count == 0:
                    start, start_line = offset, line_number
                count += 1
                if count == size:
                    blocks.append(Block(*_next(blocks), count, path.resolve(), start, start_line))
                    count = 0
            offset += len(line)
    if count:
        blocks.append(Block(*_next(blocks), count, path.resolve(), start, start_line))
    if len(blocks) == before:
        raise UserError(f"{path}: is empty; it must hold a record a line, as vglm data convert writes them")
    return digest.hexdigest()


def _cut_shards(path: Path, size: int, blocks: list[Block]) -> str:
    manifest = Manifest.read(path)
    manifest.check_files()
    if not manifest.samples:
        raise UserError(f"{manifest.path}: its shards hold no sample at all")
    for shard in manifest.shards:
        for index in range(0, shard.samples, size):
            count = min(size, shard.samples - index)
            blocks.append(Block(*_next(blocks), count, shard.path.resolve(), index, shard=shard))
    return hashlib.sha256("".join(shard.sha256 for shard in manifest.shards).encode()).hexdigest()


def read_block(block: Block) -> Iterator[RecordItem]:
    """The block's items in order; what cannot be read is among them."""
    return _read_lines(block) if block.shard is None else _read_samples(block, block.shard)


def read_row(inputs: Inputs, row: int) -> RecordItem:
    """One item by its row."""
    block = next(block for block in reversed(inputs.blocks) if block.first <= row)
    return next(item for item in read_block(block) if item.row == row)


def _read_lines(block: Block) -> Iterator[RecordItem]:
    row = block.first
    with open(block.path, "rb") as file:
        file.seek(block.offset)
        for number, line in enumerate(file, block.line):
            if line.strip():
                yield _item(row, f"{block.path.name} line {number}", line, block.path.parent)
                row += 1
                if row == block.first + block.count:
                    return


def _read_samples(block: Block, shard: Shard) -> Iterator[RecordItem]:
    reader = ShardReader(capacity=1)
    for index in range(block.offset, block.offset + block.count):
        row = block.first + index - block.offset
        try:
            raw = reader.read(shard, index)
        except DamagedSample as error:
            yield RecordItem(row, f"{shard.name} {error.key}", {}, RecordError(error.cause, error.reason), None)
            continue
        yield _item(row, f"{shard.name} {raw.key}", raw.json, raw.image)


def _item(row: int, where: str, line: bytes, image: Path | bytes) -> RecordItem:
    try:
        fields = json.loads(line)
        record = parse(fields if isinstance(fields, dict) else line)
    except (RecordError, ValueError, RecursionError) as error:
        wrong = RecordError(getattr(error, "cause", "record"), str(error))
        return RecordItem(row, where, _fields_of(line), wrong, image if isinstance(image, bytes) else None)
    return RecordItem(row, where, fields, record, image if isinstance(image, bytes) else image / record.image)


def _fields_of(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def path_from(folder: Path, file: Path) -> str:
    """How a record in `folder` names a picture (both resolved): from there, so that both can be moved together. In full
    where no path leads from one to the other, as between two drives of Windows."""
    try:
        return Path(os.path.relpath(file, folder)).as_posix()
    except ValueError:
        return file.as_posix()


def moved(item: RecordItem, out: Path, **changes: Any) -> dict[str, Any]:
    """The item's record for the records file `out` (resolved): its picture's path is relative to that file."""
    assert isinstance(item.source, Path)
    return {**item.fields, "image": path_from(out.parent, item.source), **changes}
