"""Which samples or questions an evaluation takes where it is not to take all: spread over sources and languages.

Those with the lowest hash of source and key are taken, as many of each source and, in it, of each language, unless one
has fewer. So the choice is the same on every machine, for any number of processes and in any order, and data that is
added elsewhere changes nothing but how many each source gets.
"""

import hashlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from vglm_train.data.record import DamagedSample
from vglm_train.data.shards.index import LANGUAGES
from vglm_train.data.shards.reader import ShardReader
from vglm_train.data.shards.shard import Shard


def hash_of(source: str, key: str) -> int:
    """63 bits."""
    digest = hashlib.blake2b(f"{source}\n{key}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


@dataclass(frozen=True, slots=True)
class Candidates:
    """n samples or questions of one source, [n] each."""

    source: str
    positions: NDArray[np.int64]  # in the whole set, ascending
    hashes: NDArray[np.int64]
    languages: NDArray[np.uint8]  # bits of those wanted; 0: damaged, or none of those

    @classmethod
    def of(cls, source: str, first: int, keys: Sequence[str], languages: Sequence[int]) -> Self:
        """Candidates at positions from `first` on. Keys may be fewer: the others cannot be read."""
        known = [hash_of(source, key) for key in keys] + [0] * (len(languages) - len(keys))
        positions = np.arange(first, first + len(languages), dtype=np.int64)
        return cls(source, positions, np.array(known, np.int64), np.array(languages, np.uint8))

    def take(self, chosen: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
        """Positions of the `count` lowest hashes among `chosen` [n]."""
        return self.positions[chosen][np.argsort(self.hashes[chosen], kind="stable")[:count]]


def choose(candidates: Iterable[Candidates], limit: int) -> list[int]:
    """Positions of `limit` candidates, or of all if there are fewer, ascending.

    Those without a language are taken only where the others are too few.
    """
    sources = _by_source(candidates)
    taken: list[int] = []
    for each, share in zip(sources, share_out([int((each.languages > 0).sum()) for each in sources], limit)):
        groups = [each.languages == name for name in np.unique(each.languages) if name]
        for group, own in zip(groups, share_out([int(group.sum()) for group in groups], share)):
            taken += each.take(group, own).tolist()
    rest = [int((each.languages == 0).sum()) for each in sources]
    for each, own in zip(sources, share_out(rest, limit - len(taken))):
        taken += each.take(each.languages == 0, own).tolist()
    return sorted(taken)


def _by_source(candidates: Iterable[Candidates]) -> list[Candidates]:
    parts: dict[str, list[Candidates]] = {}
    for each in candidates:
        parts.setdefault(each.source, []).append(each)
    names = ("positions", "hashes", "languages")
    return [
        Candidates(source, *(np.concatenate([getattr(each, name) for each in own]) for name in names))
        for source, own in parts.items()
    ]


def share_out(sizes: Sequence[int], total: int) -> list[int]:
    """How many of `total` each group of so many members gets: the same for all, but for groups that have fewer."""
    shares, left = [0] * len(sizes), min(total, sum(sizes))
    while left:
        unfilled = [number for number, size in enumerate(sizes) if shares[number] < size]
        each = max(1, left // len(unfilled))
        for number in unfilled:
            more = min(each, sizes[number] - shares[number], left)
            shares[number] += more
            left -= more
    return shares


def few(shards: Sequence[Shard], limit: int, languages: Sequence[str]) -> list[Shard]:
    """Of remote shards, which must be fetched to be looked at, enough for `limit` samples and a share of each language.

    They are taken by a hash of their names. Local ones all stay.
    """
    taken = {shard.name for shard in shards if shard.url is None}
    counts, wanted, samples = dict.fromkeys(languages, 0), -(-limit // len(languages)), 0
    for shard in sorted(shards, key=lambda shard: hash_of("", shard.name)):
        own = shard.languages or {}
        lacking = any(own.get(name) and counts[name] < wanted for name in languages)
        if shard.url is not None and (samples < limit or lacking):
            taken.add(shard.name)
            samples += shard.samples
            counts = {name: count + own.get(name, 0) for name, count in counts.items()}
    return [shard for shard in shards if shard.name in taken]


def samples_of(reader: ShardReader, shard: Shard, source: str, first: int, languages: Sequence[str]) -> Candidates:
    """The samples of a shard whose first has position `first`. UserError where a local shard cannot be read."""
    wanted = sum(1 << LANGUAGES.index(name) for name in languages)
    found = np.zeros(shard.samples, np.uint8)
    try:
        keys, bits = reader.keys_and_languages(shard)
    except DamagedSample:  # the shard cannot be fetched
        return Candidates.of(source, first, [], found.tolist())
    found[: len(bits)] = bits & wanted
    return Candidates.of(source, first, keys, found.tolist())


def examples(keys: Sequence[str], groups: Sequence[Hashable], count: int) -> list[int]:
    """Indices of `count` of n items to look at: by hash, in turn one of each group. keys and groups: [n]."""
    by_group: dict[str, list[int]] = {}
    for index in sorted(range(len(keys)), key=lambda index: (hash_of(str(groups[index]), keys[index]), index)):
        by_group.setdefault(str(groups[index]), []).append(index)
    members = [by_group[name] for name in sorted(by_group)]
    turns = [(turn, number, index) for number, group in enumerate(members) for turn, index in enumerate(group)]
    return [index for _, _, index in sorted(turns)[:count]]
