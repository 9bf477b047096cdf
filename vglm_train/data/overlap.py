"""What validation data has of the training data: the same shards, records or pictures. Scores are too good then.

Shards are compared by the hashes of their manifests. Of samples, those of validation are spread over all of it; a
training sample is read only if its picture is as long as one of theirs, which its shard's index says. So the start of a
run with 300 M pairs stays short; --check looks closer.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vglm_train.config.validation import FieldError
from vglm_train.data.record import DamagedSample, RecordError, content_id, parse
from vglm_train.data.shards.index import index_path, read_index
from vglm_train.data.shards.manifest import Manifest
from vglm_train.data.shards.reader import ShardReader
from vglm_train.data.shards.shard import Shard
from vglm_train.data.shards.shard_list import JoinedShards
from vglm_train.data.shards.tar import read_tar_index
from vglm_train.data.tables.leaks import EXAMPLES, find_leaks, side
from vglm_train.data.tables.table import TableSlice
from vglm_train.errors import UserError

ADVICE = (
    "Scores would be of what the model has learned by heart. Pack training and validation from two splits of the "
    "records, or keep rows of a table out of training with data.holdout. To score training data on purpose set "
    "evaluate.allow_training_data=true"
)


@dataclass(frozen=True, slots=True)
class Effort:
    """How many samples are looked at, at most."""

    held: int  # of validation
    training: int  # of training, in the indexes of their shards
    unindexed: int  # of these, in tars that have no index, or rows of tables whose pictures are files
    read: int  # of training, since a picture of validation is as long


START = Effort(held=1_000, training=2_000_000, unindexed=20_000, read=2_000)
CLOSER = Effort(held=5_000, training=20_000_000, unindexed=1_000_000, read=50_000)


class _Sample(NamedTuple):
    shard: Shard
    number: int
    size: int  # bytes of its first picture
    record: int  # bytes of its record; -1: not known


@dataclass(slots=True)
class _Found:
    """What of the validation samples that were `compared` is in training."""

    compared: int
    looked: int = 0  # training samples whose sizes were known
    total: int = 0
    pictures: int = 0
    records: int = 0  # picture and texts
    examples: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        if self.pictures:
            yield (
                f"{self.pictures:,} of {self.compared:,} validation pictures are in training too, {self.records:,} of "
                f"them with the same texts{self._among()}: {'; '.join(self.examples)}"
            )

    def nothing(self) -> str:
        return f"none of {self.compared:,} validation pictures is in training{self._among()}"

    def _among(self) -> str:
        return f" (looked for in {self.looked:,} of {self.total:,} samples)" if self.looked < self.total else ""


def find_overlap(
    manifests: Sequence[Manifest], validation: Sequence[Shard], allowed: bool, effort: Effort = START
) -> list[str]:
    """In words what `validation` has of the training data in `manifests`; where nothing, only CLOSER has a line.

    FieldError where a shard is in both, or all that was compared is in training with the same texts, unless `allowed`.
    """
    training = JoinedShards(manifest.shards for manifest in manifests)
    shards, tables = same_shards(training, validation), (side(training), side(validation))
    leaks = find_leaks(*tables)
    rows = sum(len(rows) for _, rows in tables[1])
    found = _Found(0) if shards else _same_samples(training, validation, effort)
    reason = None
    if shards:
        reason = f"has shards of data.train, {len(shards)} of its {len(validation)}: {'; '.join(shards[:EXAMPLES])}"
    elif rows and leaks.rows == rows:
        reason = f"all of its {rows} rows are in data.train, word for word"
    elif found.compared and found.records == found.compared:
        samples = f"all {found.compared:,} samples that were compared"
        reason = f"{samples} are in data.train, with the same texts: {found.examples[0]}"
    if reason and not allowed:
        raise FieldError("data.validation", "data.train", reason=f"{reason}. {ADVICE}")
    lines = [f"data.validation {reason} (evaluate.allow_training_data)"] if shards else []
    lines += [*leaks.lines(), *found.lines()]
    return lines if lines or effort == START or not found.compared else [found.nothing()]


def same_shards(training: Iterable[Shard], validation: Iterable[Shard]) -> list[str]:
    """Each tar of validation that is one of training, by its hash, or by where it is if no manifest gives one."""
    held = {_digest(shard): shard.where for shard in validation if not isinstance(shard, TableSlice)}
    found: dict[str, str] = {}
    for shard in training:
        if held and (name := held.get(_digest(shard))) is not None:
            found.setdefault(name, name if name == shard.where else f"{name} is {shard.where}")
    return list(found.values())


def _digest(shard: Shard) -> str:
    return shard.sha256 or shard.where


def _same_samples(training: Sequence[Shard], validation: Sequence[Shard], effort: Effort) -> _Found:
    """By their pictures' bytes. Not of tables alone, which `find_leaks` compares, nor of shards on a server."""
    if all(isinstance(shard, TableSlice) for shards in (training, validation) for shard in shards):
        return _Found(0)
    held = list(_choose(validation, effort.held))
    found = _Found(len(held), total=sum(shard.samples for shard in training))
    sizes, both = np.unique([sample.size for sample in held]), {(sample.size, sample.record) for sample in held}
    likely: list[_Sample] = []
    others: list[_Sample] = []  # mostly of one length by chance
    for shard, lengths in _spread(training, effort):
        found.looked += len(lengths)
        alike = np.flatnonzero(np.isin(lengths[:, 0], sizes))
        for index, (size, record) in zip(alike.tolist(), lengths[alike].tolist()):
            hits = likely if (size, record) in both else others
            if len(hits) < effort.read:  # of many millions, none is kept that would not be read
                hits.append(_Sample(shard, index, size, record))
    _compare(ShardReader(capacity=8), held, (likely + others)[: effort.read], found)
    return found


def _compare(reader: ShardReader, held: Iterable[_Sample], hits: Sequence[_Sample], found: _Found) -> None:
    """Read both and count in `found` which of `held` are among `hits`."""
    sizes = {sample.size for sample in hits}
    known: dict[int, list[tuple[_Sample, object]]] = defaultdict(list)  # picture -> validation samples of it
    for sample in held:
        if sample.size in sizes and (content := _read(reader, sample)):
            known[content[0]].append((sample, content[1]))
    pictures, records, examples = set(), set(), []
    for hit in hits if known else ():
        content = _read(reader, hit)
        for sample, texts in known.get(content[0], ()) if content else ():
            if isinstance(hit.shard, TableSlice) and isinstance(sample.shard, TableSlice):
                continue
            if sample not in pictures:
                examples.append(f"sample {sample.number} of {sample.shard.where} is {hit.number} of {hit.shard.where}")
            pictures.add(sample)
            if content and texts == content[1]:
                records.add(sample)
    found.pictures, found.records, found.examples = len(pictures), len(records), tuple(examples[:EXAMPLES])


def _read(reader: ShardReader, sample: _Sample) -> tuple[int, object] | None:
    """What its first picture is and what is said of it; None of a damaged one."""
    try:
        raw = reader.read(sample.shard, sample.number)
        record = parse(raw.json)
    except (DamagedSample, RecordError):
        return None
    return content_id(raw.images[0]), (record.captions, record.turns)


def _choose(shards: Sequence[Shard], count: int) -> Iterator[_Sample]:
    """So many samples at most, spread over those that lie here and have a picture."""
    local = [shard for shard in shards if shard.url is None]
    total = sum(shard.samples for shard in local)
    step, first = max(1, -(-total // count)), 0
    for shard in local:
        numbers = range(-first % step, shard.samples, step)
        lengths = _lengths(shard) if numbers else np.zeros((0, 2), np.int64)
        yield from (_Sample(shard, n, *lengths[n].tolist()) for n in numbers if n < len(lengths) and lengths[n, 0] > 0)
        first += shard.samples


def _spread(shards: Sequence[Shard], effort: Effort) -> Iterator[tuple[Shard, NDArray[np.int64]]]:
    """Shards of all of training with the `_lengths` of their samples, as far as `effort` goes."""
    left = effort.unindexed
    for shard in shards[:: max(1, -(-sum(shard.samples for shard in shards) // effort.training))]:
        if shard.url is not None:
            continue
        slow = isinstance(shard, TableSlice) or not index_path(shard.path).exists()
        left -= shard.samples if slow else 0
        if left >= 0 or not slow:
            yield shard, _lengths(shard)


def _lengths(shard: Shard) -> NDArray[np.int64]:
    """[samples,2] bytes of each first picture and record; -1: there is none. Of a damaged tar those that are found."""
    if isinstance(shard, TableSlice):
        pictures = [_length_in_table(shard, index) for index in range(shard.samples)]
        return np.stack([np.array(pictures, np.int64), np.full(shard.samples, -1, np.int64)], 1)
    try:
        table = read_index(index_path(shard.path), shard.sha256) or read_tar_index(shard.path)
    except OSError as error:
        raise UserError(f"{shard.where}: the shard cannot be read: {error.strerror}") from None
    return table.offsets[:, [1, 3]]


def _length_in_table(shard: TableSlice, index: int) -> int:
    try:
        named: list[Path | bytes] = shard.table.picture_files(shard.name, int(shard.rows[index]))
        return len(named[0]) if isinstance(named[0], bytes) else named[0].stat().st_size
    except (DamagedSample, OSError, IndexError):
        return -1
