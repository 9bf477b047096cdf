"""How far a mean over held-out pictures can be trusted."""

from collections.abc import Sequence

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
