"""Shards are fetched before they are needed: the order is a pure function, so which come next is known."""

import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain

from vglm_train.data.remote.cache import ShardCache
from vglm_train.data.remote.download import Unreachable
from vglm_train.data.sampling.mixture import Mixture, SampleRef, SubDataset
from vglm_train.data.shards.shard import Shard
from vglm_train.errors import UserError


def _largest_buffer(subset: SubDataset) -> int:
    """Bytes of the remote shards of the heaviest shuffle buffer there can be."""
    return sum(
        sorted((shard.bytes for shard in subset.shards if shard.url), reverse=True)[: subset.order.shards_per_buffer]
    )


class _Lookahead:
    """The shards that one sub-dataset reads now and next."""

    def __init__(self, subset: SubDataset, capacity: int) -> None:
        self.subset, self.capacity = subset, capacity
        self.now: frozenset[Shard] = frozenset()
        self.wanted: Sequence[Shard] = ()  # remote ones of this buffer and the next, as far as they fit

    def move(self, epoch: int, shard: int) -> None:
        """To the buffer that shard number `shard` is in."""
        current, then = self.subset.order.following(epoch, shard)
        shards = self.subset.shards
        self.now = frozenset(shards[number] for number in current)
        self.wanted = _within([shards[number] for number in dict.fromkeys((*current, *then))], self.capacity)


class ShardPrefetch:
    """Fetches the shards of each sub-dataset's current shuffle buffer and of the next, as far as the cache holds both.

    A thread of this process does it. Other processes do the same; whichever comes to a shard first fetches it.
    """

    def __init__(self, mixture: Mixture, store: ShardCache) -> None:
        """Gets the cache ready if there are remote shards. UserError where it cannot hold those read at once."""
        self.store = store
        sizes = [_largest_buffer(subset) for subset, _ in mixture.shares()]
        remote = [size for size in sizes if size]
        self.capacity = store.limit // max(1, len(remote))  # bytes of the cache for each sub-dataset
        if remote:
            self._check_cache_size(sum(remote))
            store.begin()
        self._lookaheads: dict[int, _Lookahead] = {}  # by id() of the sub-dataset, so filled in the process that reads
        self._thread: threading.Thread | None = None

    def _check_cache_size(self, needed: int) -> None:
        """The cache holds the shards whose samples are permuted together."""
        if needed > self.store.limit:
            raise UserError(
                f"data.cache.limit_gib {self.store.cache.limit_gib:g} cannot hold the shards that data.shuffle_shards "
                f"reads at once, {needed / 2**30:.3g} GiB. Raise it, lower data.shuffle_shards, or make smaller shards."
            )

    def at(self, position: SampleRef) -> None:
        """The sample at this position is about to be read."""
        if position.shard.url is None:
            return
        lookahead = self._lookaheads.get(id(position.subset))
        if lookahead is None:
            lookahead = self._lookaheads[id(position.subset)] = _Lookahead(position.subset, self.capacity)
        if position.shard in lookahead.now:
            return
        lookahead.move(position.epoch, position.number)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._fetch, daemon=True)
            self._thread.start()

    def _fetch(self) -> None:
        tried: set[Shard] = set()
        while missing := [shard for shard in self._due() if shard not in tried]:
            tried.add(missing[0])
            with suppress(Unreachable, UserError):  # whoever reads the shard says so
                self.store.fetch(missing[0], wait=False)

    def _due(self) -> list[Shard]:
        """In turns, so that no sub-dataset waits for another's next buffer."""
        lists = [lookahead.wanted for lookahead in list(self._lookaheads.values())]
        longest = max(map(len, lists), default=0)
        turns = chain.from_iterable((shards[n] for shards in lists if n < len(shards)) for n in range(longest))
        return [shard for shard in turns if not shard.path.exists()]


def _within(shards: Sequence[Shard], capacity: int) -> list[Shard]:
    """The first of them that take no more than `capacity` bytes together, remote ones only."""
    taken = []
    for shard in shards:
        capacity -= shard.bytes if shard.url else 0
        if capacity < 0:
            break
        if shard.url:
            taken.append(shard)
    return taken
