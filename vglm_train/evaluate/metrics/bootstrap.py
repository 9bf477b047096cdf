"""How far a mean over held-out pictures can be trusted."""

from collections.abc import Hashable, Sequence

import numpy as np

RESAMPLES, CHUNK = 10_000, 500


def mean_interval(values: Sequence[float], confidence: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap of the mean: (low, high), the same at every call."""
    array, rng = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    assert array.ndim == 1
    assert len(array)
    means = [
        array[rng.integers(len(array), size=(min(CHUNK, RESAMPLES - start), len(array)))].mean(1)
        for start in range(0, RESAMPLES, CHUNK)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def resampled_ratios(sums: np.ndarray, counts: np.ndarray, clusters: Sequence[Hashable], seed: int = 0) -> np.ndarray:
    """Bootstrap of several ratios at once: sums [n,m] and counts [n,m] of n items -> [RESAMPLES,m], NaN where 0 / 0.

    What belongs together (`clusters`, one an item: a patient, a picture) is drawn together, and all m columns see the
    same draws, so that the difference of two columns is a paired bootstrap.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    rows = np.array([numbers[name] for name in clusters])
    k = len(numbers)
    grouped = np.zeros((2, k, sums.shape[1]))
    np.add.at(grouped[0], rows, sums)
    np.add.at(grouped[1], rows, counts)
    rng, found = np.random.default_rng(seed), []
    for start in range(0, RESAMPLES, CHUNK):
        drawn = rng.multinomial(k, np.full(k, 1 / k), size=min(CHUNK, RESAMPLES - start)).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append((drawn @ grouped[0]) / (drawn @ grouped[1]))
    return np.concatenate(found)


def interval(samples: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Percentiles [R] -> (low, high); NaN is left out."""
    low, high = np.nanquantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def interval_at_an_end(share: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Of a share that is 0 or 1 in all of n cases (Clopper and Pearson 1934), where a bootstrap has no width."""
    doubt = 1 - ((1 - confidence) / 2) ** (1 / n)
    return (0.0, doubt) if share == 0 else (1 - doubt, 1.0)
