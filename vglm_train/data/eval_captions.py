"""Held-out pictures with all their captions."""

import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vglm_train.config.data import Cache, Source
from vglm_train.data.eval_choice import choose, few, samples_of
from vglm_train.data.prefetch import read_ahead
from vglm_train.data.record import DamagedSample, RecordError
from vglm_train.data.remote.cache import ShardCache
from vglm_train.data.rules import learns_dialogue
from vglm_train.data.sample import StoredSample, use_sample
from vglm_train.data.shards.reader import ShardReader
from vglm_train.data.shards.shard import Shard
from vglm_train.data.splits import SplitSource, name_of, open_part
from vglm_train.image import Decoder, whole_pixels

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EvalItem:
    """One held-out picture, or several with the same captions."""

    key: str
    image_id: int
    pixels: Tensor  # [3,h,w] uint8, eval transform
    captions: dict[str, tuple[str, ...]]  # language -> captions, only configured languages
    source: str = ""
    more: tuple[Tensor, ...] = ()  # further pictures [3,h,w] in order, where all are looked at

    @property
    def pictures(self) -> Tensor:
        """uint8 [k,3,h,w]."""
        return torch.stack([self.pixels, *self.more])


class EvalSet(Dataset[Any]):
    """`images` samples of `sources` (all, if None), spread over sources and languages as `eval_choice` says.

    They come source by source and shard by shard. Iterating leaves out damaged samples, counts them in `damaged` by
    cause and names them in the log.
    Raises UserError as training does: missing shards, empty split, no language in common.
    """

    def __init__(
        self,
        sources: Sequence[Source | SplitSource],
        size: int,
        languages: Sequence[str],
        images: int | None = None,
        cache: Cache | None = None,
        decoder: Decoder | None = None,
        pictures: int | None = None,
    ) -> None:
        """`pictures`: of a sample at most, all of which are looked at, as stages with a language model do; None: the
        first alone is, as stage one does."""
        cache = cache or Cache()
        manifests = [open_part(source, languages, cache) for source in sources]
        if any(shard.url for manifest in manifests for shard in manifest.shards):
            ShardCache(cache).begin()
        self.shards = [shard for manifest in manifests for shard in manifest.shards]
        self.names = [name_of(source) for source, manifest in zip(sources, manifests) for _ in manifest.shards]
        self.starts = list(accumulate((shard.samples for shard in self.shards), initial=0))
        self.size, self.languages, self.decoder, self.pictures = size, tuple(languages), decoder, pictures
        self.reader = ShardReader(2, cache)
        self.damaged: Counter[str] = Counter()
        self.positions: Sequence[int] = range(self.starts[-1])
        if images is not None and images < len(self.positions):
            self.positions = self._choose(images)

    def _choose(self, images: int) -> list[int]:
        """Positions of so many samples."""
        looked_at: set[Shard] = set()
        for name in dict.fromkeys(self.names):
            own = [shard for shard, source in zip(self.shards, self.names) if source == name]
            looked_at.update(few(own, images, self.languages))
        parts = (
            samples_of(self.reader, shard, name, first, self.languages)
            for shard, name, first in zip(self.shards, self.names, self.starts)
            if shard in looked_at
        )
        return choose(parts, images)

    def __len__(self) -> int:
        """Samples, damaged ones too."""
        return len(self.positions)

    def __getitem__(self, index: int) -> EvalItem | DamagedSample:
        position = self.positions[index]
        number = bisect_right(self.starts, position) - 1
        shard, source = self.shards[number], self.names[number]
        try:
            return use_sample(
                self.reader, shard, position - self.starts[number], lambda stored: self._item(stored, source)
            )
        except DamagedSample as damage:
            return damage

    def _item(self, stored: StoredSample, source: str) -> EvalItem:
        captions = {name: stored.record.captions[name] for name in self.languages if name in stored.record.captions}
        if not captions:
            raise RecordError("caption", f"no caption in {', '.join(self.languages)}")
        if self.pictures is not None:
            learns_dialogue(replace(stored.record, turns=()), len(stored.images), self.languages, self.pictures)
        shown = stored.images[:1] if self.pictures is None else stored.images
        pixels, *more = (whole_pixels(image, self.size, self.decoder) for image in shown)
        return EvalItem(stored.key, stored.image_id, pixels, captions, source, tuple(more))

    def items(self, workers: int = 0, part: int = 0, parts: int = 1) -> Iterator[EvalItem]:
        """The usable ones of samples part, part + parts, ... in order; `workers` processes decode (0: this one)."""
        self.damaged.clear()
        indices = range(part, len(self), parts)
        for item in read_ahead(self, indices, workers):
            if isinstance(item, EvalItem):
                yield item
            else:
                self.damaged[item.cause] += 1
                logger.warning("left out of the evaluation: %s", item)

    def __iter__(self) -> Iterator[EvalItem]:
        return self.items()
