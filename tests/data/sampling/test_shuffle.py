"""The order of an epoch is a permutation, pure, shuffled, and local."""

import pickle
import time

import numpy as np
import pytest

from vglm_train.data.sampling.shuffle import EpochShuffle, permutation

COUNTS = [5, 1, 9, 4, 0, 7, 5, 3, 8, 2]


def epoch_of(order: EpochShuffle, epoch: int) -> list[tuple[int, int]]:
    return [order.at(epoch, place) for place in range(order.samples)]


@pytest.mark.parametrize("window", [1, 2, 3, 10, 99])
@pytest.mark.parametrize("counts", [COUNTS, [1], [0, 0, 3], [2, 0, 0]])
def test_every_sample_once(counts: list[int], window: int) -> None:
    everything = {(shard, index) for shard, count in enumerate(counts) for index in range(count)}
    order = EpochShuffle(counts, 3, "a", window)
    for epoch in range(4):
        found = epoch_of(order, epoch)
        assert len(found) == len(everything)
        assert set(found) == everything


def test_pure_whatever_was_asked_before() -> None:
    order = EpochShuffle(COUNTS, 3, "a", 2)
    expected = epoch_of(order, 5)
    other = EpochShuffle(COUNTS, 3, "a", 2)
    for place in np.random.default_rng(0).permutation(order.samples):
        other.at(int(place) % 3, int(place))
        assert other.at(5, int(place)) == expected[place]
    assert epoch_of(pickle.loads(pickle.dumps(other)), 5) == expected


def test_epoch_seed_and_source_each_change_the_order() -> None:
    orders = [epoch_of(EpochShuffle(COUNTS, seed, name, 2), epoch) for seed, name, epoch in
              [(3, "a", 0), (3, "a", 1), (4, "a", 0), (3, "b", 0)]]  # fmt: skip
    for one in range(4):
        for other in range(one):
            assert sum(a == b for a, b in zip(orders[one], orders[other])) < len(orders[one]) / 3


def test_samples_of_a_window_are_mixed_and_no_others() -> None:
    counts, window = [50] * 40, 4
    found = epoch_of(EpochShuffle(counts, 0, "a", window), 0)
    for start in range(0, len(found), 200):
        shards = {shard for shard, _ in found[start : start + 200]}
        assert len(shards) == window
        for part in range(start, start + 200, 50):  # a quarter of a window already has all its shards
            assert {shard for shard, _ in found[part : part + 50]} == shards


def test_consecutive_samples_touch_few_shards() -> None:
    counts, window = [20 + n % 7 for n in range(300)], 5
    found = epoch_of(EpochShuffle(counts, 1, "a", window), 0)
    widest = max(len({shard for shard, _ in found[start : start + 60]}) for start in range(len(found) - 60))
    assert widest <= 2 * window


def test_permutation_is_the_same_for_ever() -> None:
    """Runs on disk depend on these numbers: a change would repeat and lose samples of a resumed epoch."""
    assert permutation(10, 42, "flickr", 0).tolist() == [0, 8, 6, 3, 7, 9, 1, 2, 4, 5]
    assert permutation(10, 42, "flickr", 0, 0).tolist() == [5, 3, 9, 0, 2, 1, 7, 6, 8, 4]


def test_permutations_are_even() -> None:
    """Each item as often in each place: chi-squared of 64 cells, 49 degrees of freedom, below its 99.99 % point."""
    places = np.array([permutation(8, "even", n) for n in range(8000)])
    counts = np.stack([np.bincount(places[:, place], minlength=8) for place in range(8)])
    assert ((counts - 1000) ** 2 / 1000).sum() < 94
    neighbours = (np.diff(places, axis=1) == 1).mean()
    assert neighbours == pytest.approx(1 / 8, abs=0.01)


def test_ten_million_samples_cost_no_memory_and_little_time() -> None:
    start = time.perf_counter()
    order = EpochShuffle([1000] * 10_000, 0, "a", 16)
    assert order.samples == 10_000_000
    for place in (0, 9_999_999, 5_000_000):
        order.at(1, place)
    assert time.perf_counter() - start < 2
    assert len(pickle.dumps(order)) < 2_000_000
