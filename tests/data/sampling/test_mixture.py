"""Mixtures: shares that hold at every moment, epochs of each pool exactly once, one place one sample."""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_shards import sample, write_manifest, write_shard

from vglm_train.batch import PairBatch
from vglm_train.config.batch_split import BatchSplit
from vglm_train.config.data import Data, Source
from vglm_train.data.dataset import StreamDataset
from vglm_train.data.loader import Loader
from vglm_train.data.sample import SampleBuilder
from vglm_train.data.sampling.interleave import PERIOD, Interleave, whole_weights
from vglm_train.data.sampling.length_buckets import LengthBuckets
from vglm_train.data.sampling.mixture import Mixture, SubDataset, build_mixture
from vglm_train.data.shards.manifest import Manifest, Shard
from vglm_train.errors import UserError


def made(counts: list[list[dict[str, int]]], **settings) -> Mixture:
    """A mixture of sources of shards, of each shard its samples by language and "all" of them; no file is needed."""
    manifests, sources, names = [], [], {}
    weights = settings.pop("weights", [None] * len(counts))
    for number, shards in enumerate(counts):
        entries = []
        for index, spoken in enumerate(shards):
            languages = {name: n for name, n in spoken.items() if name != "all"}
            samples = spoken.get("all", max(languages.values(), default=0))
            entries.append(Shard(f"{number}-{index}", Path(f"{number}-{index}"), samples, 1, "", languages))
        manifests.append(Manifest(Path(f"{number}/manifest.json"), tuple(entries)))
        sources.append(Source(name=f"s{number}", shards="-", weight=weights[number]))
        names |= {name: None for spoken in shards for name in spoken if name != "all"}
    settings.setdefault("languages", tuple(settings.get("balance") or names or ("en",)))
    return build_mixture(Data(train=tuple(sources), **settings), manifests, 3)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=7))
@settings(max_examples=60, deadline=None)
def test_turns_are_dealt_by_share_and_counted_without_a_gap(shares: list[int]) -> None:
    turns, had = Interleave(shares), Counter[int]()
    total = sum(shares)
    for turn in range(2 * turns.period + 3):
        who, before = turns.at(turn)
        assert before == had[who]
        had[who] += 1
        for index, share in enumerate(shares):
            ahead = had[index] - share / total * (turn + 1)
            assert ahead < 1
            assert ahead > -1 - len(shares) / 4


def test_the_one_furthest_behind_is_next() -> None:
    turns = Interleave([3, 1])
    assert [turns.at(n)[0] for n in range(8)] == [0, 0, 1, 0, 0, 0, 1, 0]
    assert turns.at(10**15) == (0, 3 * 10**15 // 4)


@pytest.mark.parametrize(
    ("shares", "whole"),
    [([1.0, 1.0], [1, 1]), ([0.7, 0.3], [7, 3]), ([2, 4, 6], [1, 2, 3]), ([0.1, 0.2, 0.7], [1, 2, 7])],
)
def test_shares_as_whole_numbers(shares: list[float], whole: list[int]) -> None:
    assert whole_weights(shares) == whole


def test_shares_that_need_a_long_period_are_rounded() -> None:
    whole = whole_weights([30_000_001, 299_999_993, 17])
    assert sum(whole) in (PERIOD, PERIOD + 1)
    assert whole[0] / sum(whole) == pytest.approx(1 / 11, abs=2 / PERIOD)
    assert whole[2] == 1


def walk(mixture: Mixture, rows: int) -> Iterator[tuple[SubDataset, int, tuple[str, int]]]:
    for row in range(rows):
        place = mixture.at(row)
        yield place.subset, place.epoch, (place.shard.name, place.nth)


SPOKEN = st.fixed_dictionaries({"en": st.integers(0, 6), "zh": st.integers(0, 6), "all": st.integers(6, 9)})


@given(
    counts=st.lists(st.lists(SPOKEN, min_size=1, max_size=4), min_size=1, max_size=3),
    weights=st.lists(st.sampled_from([1, 2, 5, 0.5]), min_size=3, max_size=3),
    weighted=st.booleans(),
    balance=st.sampled_from([None, {"zh": 1, "en": 1}, {"zh": 3, "en": 1}]),
    mix=st.sampled_from(["sample", "batch"]),
)
@settings(max_examples=60, deadline=None)
def test_each_pool_walks_its_own_epochs_exactly_once(counts, weights, weighted, balance, mix) -> None:
    if balance and not all(any(shard[name] for source in counts for shard in source) for name in balance):
        return
    chosen = {"mix_rows": 4} if mix == "batch" else {}
    mixture = made(
        counts,
        weights=weights[: len(counts)] if weighted else [None] * len(counts),
        balance=balance,
        languages=("zh", "en"),
        mix=mix,
        global_batch=12,
        **chosen,
    )
    seen: dict[tuple[str, int], Counter] = {}
    latest: dict[str, int] = {}
    for pool, epoch, where in walk(mixture, 400):
        assert epoch >= latest.get(pool.name, 0)  # the next begins when this one is at its end
        latest[pool.name] = epoch
        seen.setdefault((pool.name, epoch), Counter())[where] += 1
    sizes = {pool.name: pool.order.samples for pool, _ in mixture.shares()}
    for (name, epoch), found in seen.items():
        assert set(found.values()) == {1}
        if epoch < latest[name]:
            assert len(found) == sizes[name]


def test_a_place_does_not_depend_on_what_was_asked_before() -> None:
    counts = [[{"en": 5, "zh": 2, "all": 6}] * 3, [{"zh": 4}]]
    one, other = (made(counts, balance={"zh": 1, "en": 1}, weights=[1, 2]) for _ in range(2))
    forward = [(p.name, e, w) for p, e, w in walk(one, 200)]
    for row in reversed(range(200)):
        place = other.at(row)
        assert (place.subset.name, place.epoch, (place.shard.name, place.nth)) == forward[row]


def test_languages_hold_over_a_mixture_of_one_to_ten() -> None:
    """|share - 1/2| at most 1/1,000 over any 10,000 samples, wherever a run stops and goes on."""
    mixture = made([[{"zh": 100}], [{"en": 1000}]], balance={"zh": 1, "en": 1})
    spoken = [pool.language == "zh" for pool, _, _ in walk(mixture, 25_000)]
    for start in (0, 4_321, 10_000, 15_000):
        assert abs(sum(spoken[start : start + 10_000]) / 10_000 - 0.5) <= 1e-3
    assert abs(sum(spoken[:7]) - 3.5) < 1


def test_languages_hold_first_and_weights_count_among_sources_that_have_one() -> None:
    mixture = made([[{"en": 50}], [{"en": 10, "zh": 10}], [{"zh": 90}]], weights=[3, 1, 1], balance={"zh": 1, "en": 1})
    shares = {pool.name: share for pool, share in mixture.shares()}
    assert shares == {"s0 in en": 0.375, "s1 in en": 0.125, "s1 in zh": 0.25, "s2 in zh": 0.25}
    found = Counter(pool.name for pool, _, _ in walk(mixture, 800))
    assert found == {name: 800 * share for name, share in shares.items()}


def test_without_weights_sources_count_by_their_samples() -> None:
    mixture = made([[{"en": 30, "zh": 10, "all": 40}], [{"en": 10, "zh": 10}]], balance={"zh": 1, "en": 1})
    found = Counter((mixture.at(row).source, mixture.at(row).subset.language) for row in range(80))
    assert found == {("s0", "en"): 30, ("s1", "en"): 10, ("s0", "zh"): 20, ("s1", "zh"): 20}


def test_batches_of_one_source() -> None:
    counts = [[{"en": 7}], [{"en": 30}], [{"zh": 9}]]
    mixture = made(counts, weights=[1, 2, 1], mix="batch", mix_rows=6, global_batch=12, languages=("en", "zh"))
    sources = [mixture.at(row).source for row in range(240)]
    blocks = [sources[start : start + 6] for start in range(0, 240, 6)]
    assert all(len(set(block)) == 1 for block in blocks)
    assert Counter(block[0] for block in blocks) == {"s0": 10, "s1": 20, "s2": 10}


def test_manifests_that_do_not_count_languages() -> None:
    manifest = Manifest(Path("a/manifest.json"), (Shard("a", Path("a/a"), 3, 1, ""),), {"captions": {"en": 3, "zh": 1}})
    data = Data(train=(Source(name="a", shards="a"),), languages=("en", "zh"), balance={"en": 1, "zh": 1})
    with pytest.raises(UserError, match=r"check_shards a --write-manifest"):
        build_mixture(data, [manifest], 0)


@pytest.fixture
def bilingual(tmp_path: Path) -> list[Path]:
    """Sources: 20 in English, 3 in Chinese, 8 in both with a note of neither between."""
    spoken = {"english": ["en"] * 20, "chinese": ["zh"] * 3, "both": ["en zh"] * 4 + ["de"] + ["en zh"] * 4}
    folders, number = [], 0
    for name, samples in spoken.items():
        folder = tmp_path / name
        folder.mkdir()
        content = []
        for languages in samples:
            captions = {language: [f"photo {number}"] for language in languages.split()}
            record = {"id": str(number), "image_id": number, "captions": captions}
            content.append(sample(number, json=json.dumps(record).encode()))
            number += 1
        write_shard(folder / "a.tar", content)
        manifest = write_manifest(folder, {"a.tar": len(samples)})
        counts = {name: sum(name in each.split() for each in samples) for name in ("en", "zh")}
        shard = manifest.shards[0]
        counted = Shard(shard.name, shard.path, shard.samples, shard.bytes, shard.sha256, counts)
        Manifest(manifest.path, (counted,)).write()
        folders.append(folder)
    return folders


def take(loader: Loader, steps: int, consumed: int = 0) -> list[PairBatch]:
    return list(islice(loader.batches(consumed), steps))


def test_a_stream_of_equal_languages_counts_what_was_drawn(loader_of, bilingual: list[Path]) -> None:
    balance = {"zh": 1, "en": 1}
    batches = take(loader_of(*bilingual, balance=balance), 10)
    drawn = sum((Counter(batch.sample_counts) for batch in batches), Counter())
    assert (drawn["en"], drawn["zh"]) == (60, 60)
    assert drawn["source0"] + drawn["source1"] + drawn["source2"] == 120
    assert not sum((Counter(batch.damaged) for batch in batches), Counter())
    ids = loader_of(*bilingual, balance=balance).dataset.builder.processor.text.language_ids
    found = Counter(int(row[1]) for batch in batches for row in batch.text_ids)
    assert found == {ids["en"]: 60, ids["zh"]: 60}
    assert 27 not in {int(n) for batch in batches for n in batch.image_ids}  # the note


@pytest.mark.parametrize("mix", [{}, {"mix": "batch", "mix_rows": 6}])
def test_a_mixture_goes_on_with_other_ranks_and_workers(loader_of, bilingual: list[Path], mix: dict) -> None:
    """1 process, then 2 with two workers, then 1 with one: the samples are those of the run that never stopped."""
    settings = {"balance": {"zh": 1, "en": 1}, "micro": 3, **mix}
    expected = lines(take(loader_of(*bilingual, **settings), 4 * 9))
    found = lines(take(loader_of(*bilingual, **settings), 4 * 3))
    for rank in range(2):
        found |= lines(take(loader_of(*bilingual, rank=rank, world=2, workers=2, **settings), 2 * 3, consumed=36))
    found |= lines(take(loader_of(*bilingual, workers=1, **settings), 4 * 3, consumed=72))
    assert found == expected
    assert len(found) == 108


def lines(batches: list[PairBatch]) -> dict[int, tuple]:
    """Place in the stream -> what stands there."""
    return {
        batch.first_row + row: (int(batch.image_ids[row]), batch.text_ids[row].tolist(), int(batch.pixels[row].sum()))
        for batch in batches
        for row in range(len(batch.image_ids))
    }


def some_length(row: int) -> int:
    return row * 7919 % 13


WHOLE = 24  # rows of a step
RUNS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 5)), min_size=1, max_size=5)


@given(
    counts=st.lists(st.lists(SPOKEN, min_size=1, max_size=3), min_size=1, max_size=3),
    starts=RUNS,
    window=st.integers(0, 3),
)
@settings(max_examples=90, deadline=None)
def test_any_sequence_of_worlds_and_stops_reads_every_epoch_once(counts, starts, window) -> None:
    """Starts of (processes, micro-batches of a step, steps until it is stopped), sources of a few samples among them.

    Above window 0, like lengths meet: whole windows are read once, and a step has its samples whoever runs it.

    Workers have no part in it: `test_same_batches_for_any_number_of_workers`.
    """
    mixture = made(counts, weights=[1, 2, 3][: len(counts)], languages=("en", "zh"))
    consumed, seen, steps_of = 0, {}, {}
    for world, accumulation, steps in starts:
        cut = BatchSplit(WHOLE, world, -(-WHOLE // (world * accumulation)), accumulation)
        for rank in range(world):
            dataset = StreamDataset(mixture, 1, cast(SampleBuilder, None), cut, rank)
            if window:
                dataset.batch_order = LengthBuckets(some_length, WHOLE, window, 5).batch
            first = consumed // WHOLE * cut.accumulation
            for number in range(first, first + steps * cut.accumulation):
                for row in dataset.positions(number):
                    assert row not in seen
                    seen[row] = mixture.at(row)
                    steps_of.setdefault(number // cut.accumulation, set()).add(row)
        consumed += steps * WHOLE
    whole = consumed // (WHOLE * max(1, window)) * WHOLE * max(1, window)
    assert set(seen) >= set(range(whole))
    assert max(seen) < whole + WHOLE * max(1, window)
    assert len(seen) == consumed
    if window:
        alone = LengthBuckets(some_length, WHOLE, window, 5)
        assert steps_of == {step: set(alone.batch(step).tolist()) for step in steps_of}
    read = Counter((place.subset.name, place.epoch, place.shard.name, place.nth) for place in seen.values())
    assert set(read.values()) == {1}
