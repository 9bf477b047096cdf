"""By how much the second of two results is above the first, with paired bootstrap intervals.

n items, m metrics.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vglm_train.config.metric_meanings import Direction, best_of
from vglm_train.config.metric_names import MEAN_RECALL, PREFIX, RECALLS
from vglm_train.evaluate.compare.read import PROTOCOL, Evaluated, Key, left_out
from vglm_train.evaluate.metrics.bootstrap import MIN_ITEMS, difference_ends, resampled_ratios

Verdict = Literal["better", "worse", "higher", "lower", "not told apart", "too few", "no interval", "no number"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric: in per cent, a loss in nats."""

    metric: str
    first: float
    second: float
    difference: float  # second - first
    low: float | None  # ends of its 95 % interval
    high: float | None
    verdict: Verdict  # of the second


@dataclass(frozen=True, slots=True)
class Part:
    """The metrics of all items, or of those of a type or language."""

    name: str
    items: int
    clusters: int  # patients or pictures
    differences: list[Difference]


def compare(first: Evaluated, second: Evaluated) -> list[Part]:
    """All items, then each type or kind and each language of several. The results hold the same items."""
    keys = list(first.outcomes)
    names = dict.fromkeys(part for key in keys for part in first.outcomes[key].parts)
    parts = [Part("all", len(keys), _clusters(first, keys), [*_single(first, second, keys), *_whole(first, second)])]
    for name in names:
        own = [key for key in keys if name in first.outcomes[key].parts]
        if len(own) < len(keys):
            parts.append(Part(name, len(own), _clusters(first, own), list(_single(first, second, own))))
    return parts


def _single(first: Evaluated, second: Evaluated, keys: Sequence[Key]) -> Iterator[Difference]:
    """Metrics that every item has a share in."""
    unfit = tuple(left_out(first, second))
    sides = [[each.outcomes[key].points for key in keys] for each in (first, second)]
    metrics = [
        name
        for name in dict.fromkeys(name for points in sides for own in points for name in own)
        if not name.startswith(unfit)
    ]
    pairs = np.array([[[own.get(name, (0.0, 0.0)) for own in points] for name in metrics] for points in sides])
    pairs = pairs.reshape(2 * len(metrics), len(keys), 2).transpose(1, 0, 2)  # [n,2m,2]
    clusters = [first.outcomes[key].cluster for key in keys]
    samples = 100 * resampled_ratios(pairs[..., 0], pairs[..., 1], clusters)
    sums = pairs.sum(0)
    found: dict[str, tuple[float, float, np.ndarray]] = {}
    for number, name in enumerate(metrics):
        own, other = number, number + len(metrics)
        if sums[own, 1] and sums[other, 1]:
            values = [100 * float(sums[n, 0] / sums[n, 1]) for n in (own, other)]
            counted = {clusters[n] for n in np.flatnonzero(pairs[:, [own, other], 1].any(1))}
            difference = samples[:, other] - samples[:, own]
            found[name] = values[0], values[1], difference
            yield _difference(_best(first.task, name), name, values[0], values[1], difference, len(counted))
    if first.task == "retrieval":
        yield _mean_recall(found, len(set(clusters)))


def _mean_recall(found: Mapping[str, tuple[float, float, np.ndarray]], clusters: int) -> Difference:
    """Of all recalls by ITC, each language counting the same."""
    own = [each for name, each in found.items() if name.partition("_")[2] in RECALLS]
    first, second = (sum(each) / len(own) for each in ([one for one, _, _ in own], [other for _, other, _ in own]))
    samples = np.mean([samples for _, _, samples in own], axis=0)
    return _difference(best_of(MEAN_RECALL), MEAN_RECALL.removeprefix(PREFIX), first, second, samples, clusters)


def _whole(first: Evaluated, second: Evaluated) -> Iterator[Difference]:
    """Scores of all texts together, which have no interval."""
    unfit = tuple(left_out(first, second))
    for name, value in first.whole.items():
        if name in second.whole and not name.startswith(unfit):
            other = second.whole[name]
            yield Difference(name, value, other, other - value, None, None, "no interval")


def _difference(
    best: Direction | None, name: str, first: float, second: float, samples: np.ndarray, clusters: int
) -> Difference:
    difference = second - first
    low, high = (math.isfinite(difference) and difference_ends(difference, samples, clusters)) or (None, None)
    verdict: Verdict = "not told apart"
    if not math.isfinite(difference):
        verdict = "no number"
    elif low is None or high is None or clusters < MIN_ITEMS:
        verdict = "too few"
    elif low > 0 or high < 0:
        if best is None:
            verdict = "higher" if low > 0 else "lower"
        else:
            verdict = "better" if (low > 0) == (best == "max") else "worse"
    return Difference(name, first, second, difference, low, high, verdict)


def _best(task: str, metric: str) -> Direction | None:
    """Which value is the best; every score of a protocol is the better the higher it is."""
    if task == PROTOCOL:
        return "max"
    return best_of(f"{PREFIX}{task}_{metric}" if task in ("vqa", "report") else f"{PREFIX}{metric}")


def _clusters(result: Evaluated, keys: Sequence[Key]) -> int:
    return len({result.outcomes[key].cluster for key in keys})
