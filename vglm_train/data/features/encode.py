"""Before training: which pictures' features are not stored yet, and the encoder run over those, each rank its share."""

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vglm_train.config.data import Data
from vglm_train.config.run import Config
from vglm_train.data.features.identity import Encoder, Identity, encoder_fingerprint, of_earlier_kernels, picture_digest
from vglm_train.data.features.jobs import PICTURE, DecodeJobs, Item, Items, ListJobs, Row, plain, row_keys, unchanged
from vglm_train.data.features.store import FeatureStore, Writer
from vglm_train.data.prefetch import read_ahead
from vglm_train.data.shards.shard import Shard
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError, explain_dead_processes
from vglm_train.progress import Progress
from vglm_train.signals import sigterm_interrupts

GIB = 2**30
PATIENCE = 60  # seconds until what another machine wrote must be visible

logger = logging.getLogger(__name__)
Encode = Callable[[Tensor], Tensor]


def prepare(config: Config, encoder: Encoder, encode: Encode, shards: Sequence[Shard], ranks: Ranks) -> FeatureStore:
    """The store of data.features, holding every view of every picture of `shards`. All ranks call it.

    `encode`: uint8 pixels [n,3,h,w] on the rank's device -> [n,p,c], by `encoder`. Pictures that are not stored yet are
    encoded now, each once, shared out over the ranks, with a progress bar on the main one. UserError where they would
    not fit data.features.limit_gib or the disk, and where the encoder trains.
    """
    features = config.data.features
    assert features is not None
    if any(weight.requires_grad for weight in encoder.parameters()):
        raise UserError(
            "data.features: the image encoder trains in this run, so what it gives changes with every step. "
            "Leave data.features out, or the image encoder frozen."
        )
    identity = Identity.of(config, encoder, str(ranks.from_main(encoder_fingerprint(encoder) if ranks.main else None)))
    store = FeatureStore(Path(features.folder), identity, features.views)
    fresh = _fresh(store, shards, config.data, ranks)
    if fresh:
        with sigterm_interrupts():
            _Filling(config, store, [shards[number] for number in fresh], ranks).run(encode)
        if ranks.main:
            store.mark_done(_name(shards[number], config.data) for number in fresh)
    ranks.barrier()
    return store


def _fresh(store: FeatureStore, shards: Sequence[Shard], data: Data, ranks: Ranks) -> list[int]:
    """Numbers of the shards that are not known to be stored whole, as the main rank finds them."""
    found: object = None
    if ranks.main:
        known = store.done()
        found = [number for number, shard in enumerate(shards) if _name(shard, data) not in known]
    found = ranks.from_main(found)
    assert isinstance(found, list)
    return found


@dataclass(frozen=True, slots=True)
class _Filling:
    config: Config
    store: FeatureStore
    shards: Sequence[Shard]
    ranks: Ranks

    def run(self, encode: Encode) -> None:
        pictures = self._pictures()
        missing = self._missing(pictures)
        if self.ranks.main:
            logger.info(
                "features: %d rows of %d pictures are stored in %s, %d (%.2f GiB) are to be computed",
                len(pictures) * self.store.views - len(missing),
                len(pictures),
                self.store.folder,
                len(missing),
                len(missing) * self.store.row_bytes / GIB,
            )
            if missing and (others := of_earlier_kernels(self.store.root, self.store.identity)):
                logger.info(
                    "features: %s there are of GPU kernels of an earlier version, which round otherwise: not used, "
                    "to be deleted once no older version needs them",
                    ", ".join(others),
                )
        self._check_capacity(len(missing))
        self._encode(missing, encode)
        self.ranks.barrier()
        self._check_whole(pictures)

    def _pictures(self) -> NDArray[Any]:
        """Every picture of the shards, once (PICTURE). Each rank reads its share of the files."""
        looking = ListJobs(self.shards, self.config.data.cache)
        own = range(self.ranks.rank, len(looking), self.ranks.world)
        found = [np.zeros(0, PICTURE), *self._loaded(looking, own, "looking for stored features")]
        everyone = np.concatenate(self.ranks.gather_objects(np.concatenate(found)))
        everyone.sort(order=["sample", "nth"])
        _, first = np.unique(everyone["digest"], return_index=True)
        return everyone[np.sort(first)]

    def _missing(self, pictures: NDArray[Any]) -> list[Row]:
        """Sample, picture of it, digest and view of each row that is not stored."""
        every = [(*plain(picture), view) for picture in pictures for view in range(self.store.views)]
        held = self.store.holds(row_keys((digest, view) for _, _, digest, view in every))
        return [row for row, is_held in zip(every, held) if not is_held]

    def _check_capacity(self, rows: int) -> None:
        """The main rank measures; all raise."""
        self.ranks.barrier()
        problem = self.ranks.from_main(self._lack_of_capacity(rows * self.store.row_bytes) if self.ranks.main else None)
        if problem:
            raise UserError(str(problem))

    def _lack_of_capacity(self, needed: int) -> str | None:
        features = self.config.data.features
        assert features is not None
        used = self.store.used()
        total, others = sum(used.values()), [name for name in used if name != self.store.folder.name]
        if needed and total + needed > features.limit_gib * GIB:
            more = f" ({', '.join(others)} there are of other encoders, augmentations or versions)" if others else ""
            return (
                f"data.features.limit_gib: {features.limit_gib:g} is not enough: {needed / GIB:.2f} GiB of features "
                f"are to be added to {total / GIB:.2f} GiB in {features.folder}{more}. Raise the limit, "
                "lower data.features.views, or delete folders that are no longer needed."
            )
        free = shutil.disk_usage(self.store.folder).free
        if needed > free:
            return (
                f"data.features.folder: {needed / GIB:.2f} GiB of features are to be added, but {features.folder} has "
                f"{free / GIB:.2f} GiB free. Make room, or give another folder."
            )
        return None

    def _encode(self, missing: Sequence[Row], encode: Encode) -> None:
        decoding = DecodeJobs(self.config.data, self.store.identity, self.shards, missing)
        own = range(self.ranks.rank, len(decoding), self.ranks.world)
        waiting: tuple[NDArray[Any], Tensor] | None = (
            None  # its features may still be computed while the next are prepared
        )
        with Writer(self.store) as writer:
            for keys, pixels, damaged in self._loaded(decoding, own, "encoding pictures"):
                for key, cause in damaged:
                    writer.add_damaged(key, cause)
                coming = (keys, encode(pixels.to(self.ranks.device))) if len(keys) else None
                if waiting is not None:
                    writer.add(waiting[0], waiting[1].cpu())
                waiting = coming
            if waiting is not None:
                writer.add(waiting[0], waiting[1].cpu())

    def _check_whole(self, pictures: NDArray[Any]) -> None:
        """This machine sees what all ranks wrote."""
        keys = row_keys((plain(picture)[2], view) for picture in pictures for view in range(self.store.views))
        end = time.monotonic() + PATIENCE
        while True:
            self.store.refresh()
            lacking = len(keys) - int(self.store.holds(keys).sum())
            if not lacking:
                return
            if time.monotonic() > end:
                raise UserError(
                    f"data.features.folder: {lacking} of {len(keys)} rows that were written are not seen in "
                    f"{self.store.folder}. All machines of the run must see the same folder."
                )
            time.sleep(1)

    def _loaded(self, items: Items[Item], own: range, what: str) -> Iterator[Item]:
        """items[n] for n in `own`, read by data.workers processes, with a bar."""
        loader = read_ahead(items, own, min(self.config.data.workers, len(own)), collate=unchanged)
        share = f"{what}, process 1 of {self.ranks.world}" if self.ranks.world > 1 else what
        total = min(items.size * len(own), items.total)
        with explain_dead_processes(), Progress(total, "picture", share, self.ranks.main) as bar:
            for item in loader:
                if isinstance(item, UserError):
                    raise item
                yield item
                bar.update(min(items.size, total - bar.n))


def _name(shard: Shard, data: Data) -> str:
    """Identifies a shard whose pictures are all stored. A table has no hash: its time of change stands for it, and
    where the configuration looks for its rows and pictures.
    """
    words = f"{shard.url or shard.path.resolve()} {shard.name} {shard.samples} {shard.bytes} {shard.sha256}"
    if not shard.sha256 and shard.url is None:
        words += f" {shard.path.stat().st_mtime_ns} {data.train} {data.holdout}"
    return picture_digest(words.encode("utf-8", "surrogateescape")).hex()
