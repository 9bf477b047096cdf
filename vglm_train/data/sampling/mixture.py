"""Which sample is at a position of the stream, when sources are mixed by weight and languages balanced.

A `SubDataset` is what is walked epoch by epoch: all sources together where none has a weight, else one source; where
languages are balanced, one language of it. `Interleave` gives each its share, in two levels. The level whose shares
must hold best comes first: languages then sources, or, where batches are not mixed, sources then languages.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from vglm_train.config.data import Data
from vglm_train.data.sampling.interleave import Interleave
from vglm_train.data.sampling.shuffle import EpochShuffle
from vglm_train.data.shards.manifest import Manifest, remake
from vglm_train.data.shards.shard import Shard
from vglm_train.data.shards.shard_list import JoinedShards
from vglm_train.errors import UserError


@dataclass(frozen=True, slots=True)
class SubDataset:
    """Samples that are read in epochs of their own. `language`: the one that is read; None: the processor chooses."""

    shards: Sequence[Shard]
    sources: tuple[str, ...]  # of each shard
    language: str | None
    order: EpochShuffle

    @property
    def name(self) -> str:
        names = " + ".join(dict.fromkeys(self.sources))
        return names if self.language is None else f"{names} in {self.language}"


@dataclass(frozen=True, slots=True)
class SampleRef:
    """The sample at a position of the stream."""

    subset: SubDataset
    epoch: int  # of the sub-dataset
    shard: Shard
    source: str
    nth: int  # sample of the shard; among those in the sub-dataset's language, if it has one
    number: int  # of the shard among those of the sub-dataset


class Mixture:
    """Position in the stream -> sample, a pure function. `block`: consecutive positions that one outer turn gives."""

    def __init__(
        self, subsets: Sequence[Sequence[SubDataset]], shares: Sequence[Sequence[Fraction]], block: int
    ) -> None:
        """`subsets` and their `shares` of the stream: [outer turns][inner turns]."""
        self.subsets, self.block = tuple(tuple(row) for row in subsets), block
        self.outer = Interleave([sum(row, Fraction(0)) for row in shares])
        self.inner = [Interleave(row) for row in shares]

    def at(self, position: int) -> SampleRef:
        turn, rest = divmod(position, self.block)
        first, turn = self.outer.at(turn)
        second, nth = self.inner[first].at(turn * self.block + rest)
        subset = self.subsets[first][second]
        epoch, within = divmod(nth, subset.order.samples)
        shard, index = subset.order.at(epoch, within)
        return SampleRef(subset, epoch, subset.shards[shard], subset.sources[shard], index, shard)

    def shares(self) -> list[tuple[SubDataset, float]]:
        """Every sub-dataset with its share of the stream, as it will be."""
        return [
            (subset, outer * inner)
            for row, turns, outer in zip(self.subsets, self.inner, self.outer.shares)
            for subset, inner in zip(row, turns.shares)
        ]

    def shards(self) -> list[Shard]:
        """Of all sub-datasets, each once."""
        return list(dict.fromkeys(shard for row in self.subsets for subset in row for shard in subset.shards))


def build_mixture(data: Data, manifests: Sequence[Manifest], seed: int) -> Mixture:
    """The mixture of data.train and its manifests. UserError where a language cannot be counted."""
    weighted = any(source.weight is not None for source in data.train)
    apart = weighted or data.mix == "batch"
    named = [(source.name, manifest) for source, manifest in zip(data.train, manifests)]
    groups = [[entry] for entry in named] if apart else [named]
    weights = [source.weight for source in data.train] if weighted else [None] * len(groups)
    balance: dict[str | None, float] = {name: part for name, part in (data.balance or {}).items()} or {None: 1}
    cells = {
        (group, language): subset
        for group, members in enumerate(groups)
        for language in balance
        if (subset := _sub_dataset(members, language, data.shuffle_shards, seed)).order.samples
    }
    shares: dict[tuple[int, str | None], Fraction] = {}
    for language, part in balance.items():
        have = {group: subset for (group, its_language), subset in cells.items() if its_language == language}
        if not have:
            raise UserError(f"data.balance asks for {language}, but no sample of any source has a caption in it.")
        sizes = {
            g: Fraction(subset.order.samples if weights[g] is None else str(weights[g])) for g, subset in have.items()
        }
        total = sum(sizes.values())
        shares |= {(group, language): Fraction(str(part)) * size / total for group, size in sizes.items()}
    outer = 0 if data.mix == "batch" else 1
    rows = dict.fromkeys(key[outer] for key in cells)
    keys = [[key for key in cells if key[outer] == row] for row in rows]
    block = (data.mix_rows or data.global_batch) if data.mix == "batch" else 1
    return Mixture([[cells[key] for key in row] for row in keys], [[shares[key] for key in row] for row in keys], block)


def _sub_dataset(members: Sequence[tuple[str, Manifest]], language: str | None, buffer: int, seed: int) -> SubDataset:
    shards = members[0][1].shards if len(members) == 1 else JoinedShards(manifest.shards for _, manifest in members)
    sources = tuple(name for name, manifest in members for _ in manifest.shards)
    counts = [n for _, m in members for n in _counts(m, language)]
    name = " ".join(name for name, _ in members)
    return SubDataset(
        shards,
        sources,
        language,
        EpochShuffle(counts, seed, name if language is None else f"{name} {language}", buffer),
    )


def _counts(manifest: Manifest, language: str | None) -> list[int]:
    """Samples of each shard, those with captions in `language` if it is given."""
    if language is None or (manifest.captions is not None and set(manifest.captions) == {language}):
        return manifest.counts
    if any(shard.languages is None for shard in manifest.shards):
        raise UserError(
            f"{manifest.where}: does not say how many samples have captions in {language}, which data.balance needs. "
            f"To count them, {remake(manifest.where)}."
        )
    return [(shard.languages or {}).get(language, 0) for shard in manifest.shards]
