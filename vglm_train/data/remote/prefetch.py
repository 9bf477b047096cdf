"""Shards are fetched before they are needed: the order is a pure function, so which come next is known."""

import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain

from vglm_train.data.remote.cache import ShardCache
from vglm_train.data.remote.download import Unreachable
from vglm_train.data.sampling.mixture import Mixture, Position, SubDataset
from vglm_train.data.shards.manifest import Shard
from vglm_train.errors import UserError


def check_cache_size(mixture: Mixture, store: ShardCache) -> None:
    """The cache holds the shards whose samples are permuted together. UserError if it cannot."""
    needed = sum(_largest(pool) for pool, _ in mixture.shares())
    if needed > store.limit:
        raise UserError(
            f"data.cache.limit_gib {store.cache.limit_gib:g} cannot hold the shards that data.shuffle_shards reads at "
            f"once, {needed / 2**30:.3g} GiB. Raise it, lower data.shuffle_shards, or make smaller shards."
        )


def _largest(pool: SubDataset) -> int:
    """Bytes of the remote shards of the heaviest window there can be."""
    return sum(sorted((shard.bytes for shard in pool.shards if shard.url), reverse=True)[: pool.order.window])


class _Window:
    """Where one pool stands."""

    def __init__(self, pool: SubDataset, room: int) -> None:
        self.pool, self.room = pool, room
        self.numbers = {shard: number for number, shard in enumerate(pool.shards)}
        self.now: frozenset[Shard] = frozenset()
        self.wanted: Sequence[Shard] = ()  # remote ones of this window and the next, as far as there is room

    def move(self, epoch: int, shard: Shard) -> None:
        """To the window of `shard`."""
        window, then = self.pool.order.following(epoch, self.numbers[shard])
        shards = self.pool.shards
        self.now = frozenset(shards[number] for number in window)
        self.wanted = _within([shards[number] for number in dict.fromkeys((*window, *then))], self.room)


class ShardPrefetch:
    """Fetches the shards of each pool's current window and of the next, as far as the cache holds both, in a thread of
    this process. Other processes do the same; a shard is fetched by whoever comes to it first."""

    def __init__(self, mixture: Mixture, store: ShardCache) -> None:
        self.store = store
        pools = sum(any(shard.url for shard in pool.shards) for pool, _ in mixture.shares())
        self.room = store.limit // max(1, pools)  # bytes of the cache for each
        self._windows: dict[int, _Window] = {}  # by the pool's id, which is this process's: filled when first read
        self._thread: threading.Thread | None = None

    def at(self, place: Position) -> None:
        """A sample at this place is about to be read."""
        if place.shard.url is None:
            return
        window = self._windows.get(id(place.pool))
        if window is None:
            window = self._windows[id(place.pool)] = _Window(place.pool, self.room)
        if place.shard in window.now:
            return
        window.move(place.epoch, place.shard)
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
        """In turns, so that no pool waits for another's next window."""
        lists = [window.wanted for window in list(self._windows.values())]
        longest = max(map(len, lists), default=0)
        turns = chain.from_iterable((shards[n] for shards in lists if n < len(shards)) for n in range(longest))
        return [shard for shard in turns if not shard.path.exists()]


def _within(shards: Sequence[Shard], room: int) -> list[Shard]:
    """The first of them that take no more than `room` bytes together, remote ones only."""
    taken = []
    for shard in shards:
        room -= shard.bytes if shard.url else 0
        if room < 0:
            break
        if shard.url:
            taken.append(shard)
    return taken
