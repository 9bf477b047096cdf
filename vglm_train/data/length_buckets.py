"""Batches of like text lengths: the order stays a pure function, only places near each other change seats.

A window is `window` global batches. Its places are sorted by the length that the text drawn there is expected to have,
longest first, and cut into global batches again; which of them comes when is drawn by the seed, so that no window runs
from long to short. Within a batch the order stays: whatever the number of processes and of micro-batches, those rows
that run at once are neighbours in it. With a window of one a global batch keeps its samples, and so its gradient; with
more, a batch holds texts of one length.

The dealing asks neither how many processes there are nor how a batch is cut: a run may go on with others.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vglm_train.data.dataset import sample_rng
from vglm_train.data.lru import LruCache
from vglm_train.data.processors import choose_caption
from vglm_train.data.reader import ShardReader
from vglm_train.data.record import DamagedSample
from vglm_train.data.sampling.mixture import Mixture
from vglm_train.data.sampling.shuffle import permutation
from vglm_train.data.shards.index import LANGUAGES
from vglm_train.data.shards.tar import CaptionCounts
from vglm_train.data.tables.table import TableShard


class LengthBuckets:
    """Step -> places of its global batch. `length`: of the text at a place of the stream, in any unit."""

    def __init__(self, length: Callable[[int], int], batch: int, window: int, seed: int, block: int | None = None):
        """`window`: global batches sorted together; `block`: rows that must stay together, where window is 1."""
        assert window == 1 or block is None
        self.length, self.size, self.window, self.seed = length, batch, window, seed
        self.block = block or window * batch
        self._windows: LruCache[int, NDArray[np.int64]] = LruCache(2, self._deal)

    def batch(self, step: int) -> NDArray[np.int64]:
        """Places [batch] of global batch `step`, longest text first (in each block)."""
        window, nth = divmod(step, self.window)
        return self._windows[window][nth]

    def _deal(self, window: int) -> NDArray[np.int64]:
        """[window,batch] places."""
        first = window * self.window * self.size
        lengths = np.array([self.length(first + place) for place in range(self.window * self.size)])
        order = np.argsort(-lengths.reshape(-1, self.block), axis=1, kind="stable")
        starts = first + self.block * np.arange(len(order))
        batches = (order + starts[:, None]).reshape(self.window, self.size)
        return batches[permutation(self.window, self.seed, "lengths", window)]


class TextLengths:
    """Expected tokens of the caption that is drawn at a place of the stream, from the shards' indexes."""

    def __init__(self, mixture: Mixture, reader: ShardReader, seed: int, languages: Sequence[str]) -> None:
        self.mixture, self.reader, self.seed, self.languages = mixture, reader, seed, tuple(languages)

    def __call__(self, row: int) -> int:
        """0 where nothing can be drawn: such a sample is damaged. Of a table, what `Index.lengths` says."""
        place = self.mixture.at(row)
        shard, language = place.shard, place.pool.language
        if isinstance(shard, TableShard):
            return shard.length(place.nth if language is None else shard.nth(place.nth, language))
        try:
            table, spoken = self.reader.spoken(shard)
            index = place.nth if language is None else self.reader.nth(shard, place.nth, language)
        except DamagedSample:
            return 0
        if index >= len(table):
            return 0
        rng = sample_rng(self.seed, place.epoch, table.key(index))
        return caption_length(spoken, index, (language,) if language else self.languages, rng.random)


def caption_length(spoken: CaptionCounts, index: int, languages: Sequence[str], random: Callable[[], float]) -> int:
    """Length of the caption that `choose_caption` gives of sample `index`."""
    counts = spoken.counts[index].tolist()
    drawn = choose_caption(dict(zip(LANGUAGES, counts)), languages, random)
    if drawn is None:
        return 0
    language, number = drawn
    before = sum(counts[: LANGUAGES.index(language)])
    return int(spoken.lengths[int(spoken.starts[index]) + before + number])
