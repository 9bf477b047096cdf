"""The stream: micro-batch number -> Batch, the same whichever worker reads it and however often.

The stream is one sequence of positions. `Mixture` says which sample is at each. Global batch g is positions
[g*G, (g+1)*G); `BatchSplit.rows` says which of them are micro-batch m of rank r. So a position is all there is to
remember, and any number of ranks and workers reads the same samples. Where a batch is to hold texts of one length,
`LengthBuckets` gives the order of the positions in a global batch. A damaged sample leaves its row empty and is
counted. Where a rank has fewer rows than places, the last places are empty rows too.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from vglm_train.batch import Batch
from vglm_train.config.batch_split import BatchSplit
from vglm_train.config.data import Cache
from vglm_train.data.record import DamagedSample
from vglm_train.data.remote.prefetch import ShardPrefetch
from vglm_train.data.sample import SampleBuilder, read_sample
from vglm_train.data.sampling.mixture import Mixture
from vglm_train.data.shards.reader import ShardReader
from vglm_train.errors import UserError

NAMED = 10  # damaged samples a worker names, of one cause in one epoch

logger = logging.getLogger(__name__)


class StreamDataset(Dataset[Any]):
    """Micro-batches of one rank by number, counted from the start of the stream; it has no end.

    A mistake of the user's comes back as a UserError value, because a DataLoader would wrap it in a traceback.
    """

    def __init__(
        self,
        mixture: Mixture,
        epoch_samples: int,
        builder: SampleBuilder,
        cut: BatchSplit,
        rank: int,
        cache: Cache | None = None,
    ) -> None:
        """`epoch_samples`: samples of all sources together; `cache`: for remote shards."""
        self.mixture, self.epoch_samples, self.builder = mixture, epoch_samples, builder
        self.cut, self.rank = cut, rank
        buffers = [subset.order.shards_per_buffer for subset, _ in mixture.shares()]
        self.reader = ShardReader(2 * sum(buffers), cache)  # a batch may straddle two shuffle buffers of each subset
        self.prefetch = ShardPrefetch(mixture, self.reader.cache)
        self.batch_order: Callable[[int], NDArray[np.int64]] | None = (
            None  # step -> positions; None: in ascending order
        )
        self.log = _DamageLog()

    def __getitem__(self, number: int) -> Batch | UserError:
        try:
            for position in self._in_order(number)[:1]:
                self.prefetch.at(self.mixture.at(position))  # before lengths are looked up
            return self._batch(self.first_row(number), self.positions(number))
        except UserError as error:
            return error

    def first_row(self, number: int) -> int:
        """Position in the stream of the first place of micro-batch `number`."""
        return self._in_order(number).start

    def positions(self, number: int) -> Sequence[int]:
        """Positions in the stream of the rows of micro-batch `number`; none where all its places are empty."""
        rows = self._in_order(number)
        if self.batch_order is None or not rows:
            return rows
        step, first = divmod(rows.start, self.cut.batch)
        positions: Sequence[int] = self.batch_order(step)[first : first + len(rows)].tolist()
        return positions

    def _in_order(self, number: int) -> range:
        """As `positions`, before like lengths meet."""
        step, part = divmod(number, self.cut.accumulation)
        rows = self.cut.rows(part, self.rank)
        return range(step * self.cut.batch + rows.start, step * self.cut.batch + rows.stop)

    def _batch(self, first: int, positions: Sequence[int]) -> Batch:
        builder, number = self.builder, self.cut.micro
        pixels = [builder.blank()] * number  # a damaged row's picture
        image_ids, valid = [-1] * number, [False] * number
        rows: list[Any | None] = [None] * number
        keys: list[str] = []
        damaged: Counter[str] = Counter()
        drawn: Counter[str] = Counter()  # rows of each source and of each language
        epoch = first // self.epoch_samples
        for row, number_in_stream in enumerate(positions):
            position = self.mixture.at(number_in_stream)
            self.prefetch.at(position)
            try:
                sample = read_sample(self.reader, position, builder)
            except DamagedSample as error:
                keys.append(f"{position.source}/{error.shard}/{error.key}")
                damaged[error.cause] += 1
                self.log.note(error, epoch, position.source)
                continue
            keys.append(f"{position.source}/{position.shard.name}/{sample.key}")
            drawn.update((position.source, sample.processed.language))
            pixels[row], rows[row] = sample.pixels, sample.processed.row
            image_ids[row], valid[row] = sample.image_id, True
        ids = torch.tensor(image_ids, dtype=torch.int64)
        common = {**builder.fields(torch.cat(pixels)), "valid": torch.tensor(valid), "first_row": first, "epoch": epoch}
        common["keys"] = tuple(keys) if builder.keys else ()
        return builder.processor.collate(rows, ids, damaged=dict(damaged), sample_counts=dict(drawn), **common)


class _DamageLog:
    """Names damaged samples in the log, the first few of each cause in each epoch."""

    def __init__(self) -> None:
        self.epoch = -1
        self.counts: Counter[str] = Counter()

    def note(self, damage: DamagedSample, epoch: int, source: str) -> None:
        if epoch != self.epoch:
            self.epoch = epoch
            self.counts.clear()
        self.counts[damage.cause] += 1
        if self.counts[damage.cause] <= NAMED:
            logger.warning("damaged sample in %s: %s", source, damage)
        if self.counts[damage.cause] == NAMED:
            logger.warning("further samples of cause %s are only counted, until the next epoch", damage.cause)
