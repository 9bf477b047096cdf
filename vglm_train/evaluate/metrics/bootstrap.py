"""Bootstrap intervals of means and ratios."""

from collections.abc import Hashable, Iterator, Sequence

import numpy as np

RESAMPLES, CHUNK = 10_000, 500
MIN_ITEMS = 5  # items, or patients: the few that are resampled say little about others


def mean_interval(values: Sequence[float], confidence: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """(low, high) of the mean by percentile bootstrap, the same at every call."""
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
    """Bootstrap of several ratios at once: sums [n,m] and counts [n,m] of n items -> [RESAMPLES,m], NaN for 0 / 0.

    Items of one cluster (`clusters` [n]: a patient, an image) are resampled together. All m columns share the samples,
    so the difference of two columns is a paired bootstrap.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    rows = np.array([numbers[name] for name in clusters])
    k = len(numbers)
    grouped = np.zeros((2, k, sums.shape[1]))
    np.add.at(grouped[0], rows, sums)
    np.add.at(grouped[1], rows, counts)
    ratios = []
    for drawn in draws(k, seed):
        weights = drawn.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios.append((weights @ grouped[0]) / (weights @ grouped[1]))
    return np.concatenate(ratios)


def draws(k: int, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each of k clusters is drawn in each resample: parts [r,k] of RESAMPLES rows, the same at every call."""
    rng = np.random.default_rng(seed)
    for start in range(0, RESAMPLES, CHUNK):
        yield rng.multinomial(k, np.full(k, 1 / k), size=min(CHUNK, RESAMPLES - start))


def interval(samples: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Samples [r] -> (low, high) percentiles; NaN is left out."""
    low, high = np.nanquantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def interval_at_an_end(share: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """(low, high) of a share that was 0 or 1 in n cases (Clopper and Pearson 1934); a bootstrap would have no width."""
    doubt = 1 - ((1 - confidence) / 2) ** (1 / n)
    return (0.0, doubt) if share == 0 else (1 - doubt, 1.0)


def share_ends(value: float, samples: np.ndarray, clusters: int) -> tuple[float, float] | tuple[()]:
    """The ends of the 95 % interval of a share in per cent; none for a single cluster, unless it is 0 or 100."""
    if value not in (0.0, 100.0):
        return interval(samples) if clusters > 1 else ()
    low, high = interval_at_an_end(value / 100, clusters)
    return 100 * low, 100 * high


def difference_ends(difference: float, samples: np.ndarray, clusters: int) -> tuple[float, float] | tuple[()]:
    """The ends of a difference; of one that is the same in every cluster, with the doubt about the next cluster."""
    if clusters < 2:
        return ()
    if difference == 0 or np.nanmax(samples) - np.nanmin(samples) > 1e-9:
        return interval(samples)
    low, _ = interval_at_an_end(1.0, clusters)
    return (low * difference, difference) if difference > 0 else (difference, low * difference)
