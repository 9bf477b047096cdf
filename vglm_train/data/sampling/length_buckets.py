"""Batches of like text lengths: the order stays a pure function, only nearby positions of the stream change places.

A window is `window` global batches. Its positions are sorted by the expected length of the text that is read at each,
longest first, and cut into global batches again. The seed shuffles these batches, so that no window runs from long to
short. Within a batch the order stays: whatever the number of processes and of micro-batches, those rows that run at
once are neighbours in it. With a window of one a global batch keeps its samples, and so its gradient; with more, a
batch holds texts of one length.

The order depends neither on the number of processes nor on how a batch is cut: a run may go on with others.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vglm_train.data.lru import LruCache
from vglm_train.data.processors import choose_caption
from vglm_train.data.record import DamagedSample
from vglm_train.data.sample import sample_rng
from vglm_train.data.sampling.mixture import Mixture
from vglm_train.data.sampling.shuffle import permutation
from vglm_train.data.shards.index import LANGUAGES
from vglm_train.data.shards.reader import ShardReader
from vglm_train.data.shards.tar import CaptionCounts
from vglm_train.data.tables.table import TableSlice


class LengthBuckets:
    """Step -> positions of its global batch. `length`: of the text at a position of the stream, in any unit."""

    def __init__(self, length: Callable[[int], int], batch: int, window: int, seed: int, block: int | None = None):
        """`window`: global batches sorted together; `block`: rows that must stay together, where window is 1."""
        assert window == 1 or block is None
        self.length, self.size, self.window, self.seed = length, batch, window, seed
        self.block = block or window * batch
        self._windows: LruCache[int, NDArray[np.int64]] = LruCache(2, self._sorted_window)

    def batch(self, step: int) -> NDArray[np.int64]:
        """Positions [batch] of global batch `step`, longest text first (in each block)."""
        window, nth = divmod(step, self.window)
        positions: NDArray[np.int64] = self._windows[window][nth]
        return positions

    def _sorted_window(self, window: int) -> NDArray[np.int64]:
        """[window,batch] positions."""
        first = window * self.window * self.size
        lengths = np.array([self.length(first + offset) for offset in range(self.window * self.size)])
        order = np.argsort(-lengths.reshape(-1, self.block), axis=1, kind="stable")
        starts = first + self.block * np.arange(len(order))
        batches = (order + starts[:, None]).reshape(self.window, self.size)
        return batches[permutation(self.window, self.seed, "lengths", window)]


class TextLengths:
    """Expected tokens of the caption that is read at a position of the stream, from the shards' indexes."""

    def __init__(self, mixture: Mixture, reader: ShardReader, seed: int, languages: Sequence[str]) -> None:
        self.mixture, self.reader, self.seed, self.languages = mixture, reader, seed, tuple(languages)

    def __call__(self, number: int) -> int:
        """0 where no caption can be taken: such a sample is damaged. Of a table, what `Index.lengths` says."""
        position = self.mixture.at(number)
        shard, language = position.shard, position.subset.language
        if isinstance(shard, TableSlice):
            return shard.length(position.nth if language is None else shard.nth(position.nth, language))
        try:
            table, captions = self.reader.caption_counts(shard)
            index = position.nth if language is None else self.reader.nth(shard, position.nth, language)
        except DamagedSample:
            return 0
        if index >= len(table):
            return 0
        rng = sample_rng(self.seed, position.epoch, table.key(index))
        return caption_length(captions, index, (language,) if language else self.languages, rng.random)


def caption_length(captions: CaptionCounts, index: int, languages: Sequence[str], random: Callable[[], float]) -> int:
    """Length of the caption that `choose_caption` gives of sample `index`."""
    counts = captions.counts[index].tolist()
    choice = choose_caption(dict(zip(LANGUAGES, counts)), languages, random)
    if choice is None:
        return 0
    language, number = choice
    before = sum(counts[: LANGUAGES.index(language)])
    return int(captions.lengths[int(captions.starts[index]) + before + number])
