"""Scores beside their baselines with what they can be trusted to, for all questions and for parts of them.

n items, m columns of scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vglm_train.data.eval_questions import EvalQuestion
from vglm_train.evaluate.metrics.bootstrap import interval, interval_at_an_end, resampled_ratios
from vglm_train.evaluate.vqa.generate import BLANK, MODEL, SHUFFLED
from vglm_train.evaluate.vqa.scores import AnswerScores

MAJORITY = "majority"
BASELINES = (MAJORITY, SHUFFLED, BLANK)


@dataclass(frozen=True, slots=True)
class Score:
    """In per cent, with the ends of the 95 % interval; a corpus score has none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """Some of the questions. `scores`: metric -> who answered -> score; `gains`: metric -> baseline -> how much the
    model is above it, a paired bootstrap.
    """

    name: str
    items: int
    clusters: int  # patients or pictures, which are what is drawn again
    scores: dict[str, dict[str, Score]]
    gains: dict[str, dict[str, Score]]


def section(
    name: str, places: Sequence[int], items: Sequence[EvalQuestion], marks: Mapping[str, Sequence[AnswerScores]]
) -> Section:
    """Items `places`. `marks`: who answered -> what each of all items earned."""
    metrics = dict.fromkeys(metric for each in marks.values() for place in places for metric in each[place])
    columns = [(metric, who) for metric in metrics for who in (MODEL, *BASELINES) if who in marks]
    pairs = np.array(
        [[marks[who][place].get(metric, (0.0, 0.0)) for metric, who in columns] for place in places]
    ).reshape(len(places), len(columns), 2)
    clusters = [_cluster(items[place]) for place in places]
    named = np.array([hash(cluster) for cluster in clusters])
    samples = 100 * resampled_ratios(pairs[..., 0], pairs[..., 1], clusters)
    sums = pairs.sum(0)
    found = Section(name, len(places), len(set(clusters)), {}, {})
    drawn = {}
    for number, (metric, who) in enumerate(columns):
        if sums[number, 1]:
            value = 100 * float(sums[number, 0] / sums[number, 1])
            drawn[metric, who] = samples[:, number], value
            counted = len(np.unique(named[pairs[:, number, 1] > 0]))
            found.scores.setdefault(metric, {})[who] = Score(value, *_ends(value, samples[:, number], counted))
    for (metric, who), (theirs, value) in drawn.items():
        if who in BASELINES and (metric, MODEL) in drawn:
            own, score = drawn[metric, MODEL]
            found.gains.setdefault(metric, {})[who] = Score(score - value, *interval(own - theirs))
    return found


def _ends(value: float, samples: np.ndarray, clusters: int) -> tuple[float, float]:
    """Of the 95 % interval, per cent."""
    if value not in (0.0, 100.0):
        return interval(samples)
    low, high = interval_at_an_end(value / 100, clusters)
    return 100 * low, 100 * high


def _cluster(item: EvalQuestion) -> tuple:
    """What is drawn together: questions about one patient, or else about one picture, are not independent."""
    return ("image", item.image_id) if item.group is None else ("group", item.group)


def parts(items: Sequence[EvalQuestion]) -> dict[str, list[int]]:
    """Items by type, and where there are none by kind, if there is more than one."""
    for field in ("type", "kind"):
        found: dict[str, list[int]] = {}
        for place, item in enumerate(items):
            name = getattr(item, field)
            if name is not None:
                found.setdefault(f"{field} {name}", []).append(place)
        if found and (len(found) > 1 or sum(map(len, found.values())) < len(items)):
            return found
    return {}
