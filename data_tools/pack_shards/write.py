"""The plan of a pack and the writing of one shard: what workers of `pack_shards` run."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data_tools.common.image_bytes import prepare, read_file
from vglm_train.data.record import Record, RecordError, as_fields, parse
from vglm_train.data.shards.index import count_languages, make_index, write_index
from vglm_train.errors import UserError, needs_extra
from vglm_train.files import replace_file, sha256, write_json
from vglm_train.image import ImageError


@dataclass(frozen=True, slots=True)
class PackOptions:
    """What decides the bytes of the shards, besides the records and their pictures."""

    split: str | None
    samples_per_shard: int
    resize_short_side: int | None


@dataclass(frozen=True, slots=True)
class Job:
    """One shard: a range of lines of the records file, of which those of the split count."""

    shard: int
    offset: int  # byte of its first record
    line: int  # number of that line, from 1
    records: int


@dataclass(frozen=True, slots=True)
class PackPlan:
    """Everything a worker needs."""

    records: Path
    out: Path
    options: PackOptions
    sha256: str  # of the records file

    @property
    def parts(self) -> Path:
        return self.out / ".parts"

    def identity(self) -> dict[str, Any]:
        """What a folder's pack was made from; equal identities give equal bytes."""
        return {"records_sha256": self.sha256, **asdict(self.options)}


def shard_name(shard: int) -> str:
    return f"shard-{shard:06d}.tar"


def _in_split(line: bytes, split: str | None) -> bool:
    """Whether the line is a record of the split; a line that cannot be read counts, to be reported when packed."""
    if split is None:
        return True
    try:
        value = json.loads(line)
    except ValueError:
        return True
    return not isinstance(value, dict) or value.get("split") == split


def make_plan(records: Path, out: Path, options: PackOptions) -> tuple[PackPlan, list[Job]]:
    """One pass over the records: their hash, and where each shard starts. UserError for no file or an empty split."""
    if not records.is_file():
        raise UserError(f"{records}: no such file; make it with vglm data convert")
    digest, offset, count = hashlib.sha256(), 0, 0
    jobs: list[Job] = []
    splits: Counter[str] = Counter()
    with open(records, "rb") as file:
        for number, line in enumerate(file, 1):
            digest.update(line)
            if line.strip() and _in_split(line, options.split):
                if count % options.samples_per_shard == 0:
                    jobs.append(Job(len(jobs), offset, number, 0))
                jobs[-1] = Job(jobs[-1].shard, jobs[-1].offset, jobs[-1].line, jobs[-1].records + 1)
                count += 1
            elif line.strip():
                splits[str(json.loads(line).get("split"))] += 1
            offset += len(line)
    if not jobs:
        if not splits:
            raise UserError(f"{records}: is empty")
        raise UserError(
            f"{records}: no record of split {options.split!r}; it has {dict(sorted(splits.items()))}. Give one of "
            "these, or give the table of captions a column split, with train or val in each row, and convert it again."
        )
    return PackPlan(records, out, options, digest.hexdigest()), jobs


def _lines(plan: PackPlan, job: Job) -> Iterator[tuple[int, bytes]]:
    found = 0
    with open(plan.records, "rb") as file:
        file.seek(job.offset)
        for number, line in enumerate(file, job.line):
            if line.strip() and _in_split(line, plan.options.split):
                yield number, line
                found += 1
                if found == job.records:
                    return


def _sample(plan: PackPlan, key: str, line: bytes) -> tuple[Record, dict[str, Any], list[str]]:
    """A record, its members for the tar writer, and what was inferred in decoding its pictures.

    RecordError or ImageError say why there is none.
    """
    record = parse(line)
    names = (record.image, *record.more)
    pictures = [read_file(plan.records.parent / name) for name in names]
    identity = record.picture_id(pictures[0])
    members: dict[str, bytes] = {}
    notes: list[str] = []
    for number, (name, data) in enumerate(zip(names, pictures)):
        try:
            kind, image, inferred = prepare(data, plan.options.resize_short_side)
        except ImageError as error:
            raise ImageError(error.cause, f"{name}: {error.reason}") from None
        members[f"{number}.{kind}" if number else kind] = image
        notes += inferred
    first, *more = [f"{key}.{member}" for member in members]
    packed = replace(record, image=first, more=tuple(more), image_id=identity)
    text = json.dumps({**json.loads(line), **as_fields(packed)}, ensure_ascii=False, sort_keys=True)
    return record, {"__key__": key, **members, "json": text.encode("utf-8", "replace")}, notes


def pack_shard(plan: PackPlan, job: Job) -> dict[str, Any]:
    """Write one shard, its index and its part file; each appears whole or not at all. Returns the part."""
    skipped: list[dict[str, Any]] = []
    languages: Counter[str] = Counter()
    inferred: Counter[str] = Counter()
    samples = 0
    path = plan.out / shard_name(job.shard)
    with needs_extra("train", "packing shards"):
        from webdataset.writer import TarWriter
    with replace_file(path) as file, TarWriter(file, mtime=0.0, encoder=False) as tar:
        for number, line in _lines(plan, job):
            key = f"{number:09d}"
            try:
                record, members, notes = _sample(plan, key, line)
            except (RecordError, ImageError) as error:
                skipped.append(_skip(plan, number, line, error))
                continue
            tar.write(members)
            samples += 1
            languages.update(record.caption_counts)
            inferred.update(notes)
    digest, table = sha256(path), make_index(path)
    write_index(path, table, digest)
    part = {"name": path.name, "samples": samples, "bytes": path.stat().st_size, "sha256": digest,
            "languages": count_languages(table), "captions": dict(sorted(languages.items())),
            "skipped": skipped, "inferred": dict(sorted(inferred.items()))}  # fmt: skip
    write_json(plan.parts / f"{path.stem}.json", part)
    return part


def _skip(plan: PackPlan, number: int, line: bytes, error: RecordError | ImageError) -> dict[str, Any]:
    """What is written to skipped.jsonl about a record that cannot be packed."""
    try:
        name = json.loads(line).get("id")
    except (ValueError, AttributeError):
        name = None
    message = f"{plan.records}: line {number}: {error.reason}"
    return {"line": number, "id": name, "cause": error.cause, "message": message}
