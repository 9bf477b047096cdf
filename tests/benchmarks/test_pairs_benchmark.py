"""The stream of 330 million pairs: the same measurement with few shards, and the whole of it with its limits."""

from pathlib import Path

import pytest

from benchmarks import pairs


def measured(folder: Path, shards: int, samples: int, draws: int, number: int) -> list[pairs.Start]:
    """Write, walk, begin at as many places in processes of their own, and compare. The starts."""
    pairs.write(folder, shards, samples)
    stops, config = pairs.places(draws, number), pairs.configuration(folder, "manifest.json", 1)
    mixture = pairs.build_mixture(config.data, pairs.read_manifests(config), config.run.seed)
    counts, expected = pairs.walk(mixture, draws, stops)
    assert sum(counts.values()) == draws
    assert all(abs(count / draws - 1 / 2) < 1e-6 for count in counts.values())
    found = [pairs.apart(folder, "manifest.json", stop, pairs.AFTER, 1 + nth % 3) for nth, stop in enumerate(stops)]
    assert [list(one.keys) for one in found] == expected
    return found


def test_few_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk begins in a later epoch of both languages; a resume is one process."""
    monkeypatch.setattr(pairs, "AFTER", 250)
    (found,) = measured(tmp_path, 44, 150, 3000, 1)
    assert 0 < found.plan_s < found.first_batch_s <= found.seconds


def test_places_are_whole_steps_within_the_walk() -> None:
    for draws in (1000, 1250, 100_000):
        number = min(10, (draws - pairs.AFTER) // pairs.BATCH + 1)
        places = pairs.places(draws, number)
        assert len(set(places)) == number
        assert all(place % pairs.BATCH == 0 for place in places)
        assert places[0] >= pairs.FROM
        assert places[-1] + pairs.AFTER <= pairs.FROM + draws


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_330_million_pairs(tmp_path: Path) -> None:
    """33,000 shards: 10 million places of the walk, ten resumes; the memory of a start, here and with a tenth of it."""
    found = measured(tmp_path, 33_000, 10_000, 10_000_000, 10)
    whole, tenth = (
        pairs.apart(tmp_path, manifest, 0, 5 * pairs.AFTER, 2) for manifest in ("manifest.json", "tenth.json")
    )
    for grown in ("main_mib", "worker_mib"):
        assert all(getattr(one, grown) < 50 for one in (*found, whole, tenth))
        assert getattr(whole, grown) - getattr(tenth, grown) < 25
