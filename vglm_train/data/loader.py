"""From the configuration to an endless iterator of this rank's micro-batches."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from itertools import count

from torch.utils.data import Sampler

from vglm_train.batch import Batch
from vglm_train.config.batch_split import split
from vglm_train.config.check import length_window
from vglm_train.config.data import Data
from vglm_train.config.run import Config
from vglm_train.data.dataset import StreamDataset
from vglm_train.data.features import FeatureStore
from vglm_train.data.parcel import Parcel, pack
from vglm_train.data.prefetch import read_ahead
from vglm_train.data.processors import Processor
from vglm_train.data.sample import SampleBuilder
from vglm_train.data.sampling.length_buckets import LengthBuckets, TextLengths
from vglm_train.data.sampling.mixture import build_mixture
from vglm_train.data.shards.manifest import Manifest
from vglm_train.data.splits import read_manifests
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError, explain_dead_processes


class Loader:
    """This rank's share of the stream. `epoch_samples`: samples of all sources together; `Batch.sample_counts`
    counts by the names in `sources` and `languages`."""

    def __init__(self, dataset: StreamDataset, data: Data, pin: bool) -> None:
        self.dataset, self.workers, self.pin = dataset, data.workers, pin
        self.epoch_samples = dataset.epoch_samples
        self.sources = tuple(source.name for source in data.train)
        self.languages: tuple[str, ...] = tuple(data.languages)

    def use_features(self, store: FeatureStore) -> None:
        """From now on pictures are their stored features."""
        self.dataset.builder = replace(self.dataset.builder, features=store)

    def batches(self, consumed: int) -> Generator[Batch]:
        """Endless: this rank's micro-batches in order, from position `consumed` of the stream on, a whole step.

        Workers start here. The batches do not depend on how many there are.
        """
        cut = self.dataset.cut
        assert consumed % cut.batch == 0, "the stream is entered between two steps"
        first = consumed // cut.batch * cut.accumulation
        loader = read_ahead(self.dataset, _From(first), self.workers, self.pin, pack)
        return _unwrapped(iter(loader))


class _From(Sampler[int]):
    """start, start + 1, ... without end."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        return count(self.start)


def _unwrapped(batches: Iterator[Parcel | UserError]) -> Generator[Batch]:
    """Batches, and what went wrong in a worker as an error here. Closing it ends the workers."""
    try:
        with explain_dead_processes():
            while True:
                item = next(batches)
                if isinstance(item, UserError):
                    raise item
                yield item.batch()
    finally:
        del batches  # an error's traceback would keep the workers waiting


def build(
    config: Config,
    processor: Processor,
    ranks: Ranks,
    manifests: Sequence[Manifest] | None = None,
    seed: int | None = None,
) -> Loader:
    """The loader of data.train. Checks manifests and files, opens no shard. UserError names what is wrong.

    `manifests`: as `read_manifests` gave them, if they are read already; `seed`: of the order of the samples and of
    what is drawn of each, if not run.seed.
    """
    data, seed = config.data, config.run.seed if seed is None else seed
    manifests = read_manifests(config) if manifests is None else manifests
    mixture, samples = build_mixture(data, manifests, seed), sum(manifest.samples for manifest in manifests)
    cut, window = split(config, ranks.world), length_window(config)
    builder = SampleBuilder(seed, processor, config.model.vision.image_size, data.image, config.log.samples)
    dataset = StreamDataset(mixture, samples, builder, cut, ranks.rank, data.cache)
    if window:
        length = TextLengths(mixture, dataset.reader, seed, data.languages)
        block = mixture.block if data.mix == "batch" else None
        dataset.batch_order = LengthBuckets(length, data.global_batch, window, seed, block).batch
    return Loader(dataset, data, pin=ranks.device.type == "cuda")
