"""Scores of the model and of its baselines with bootstrap intervals, for all questions and for subsets of them.

n items, m columns of scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vglm_train.config.metric_names import BASELINES, MODEL
from vglm_train.data.eval_questions import EvalQuestion
from vglm_train.evaluate.metrics.bootstrap import difference_ends, resampled_ratios, share_ends
from vglm_train.evaluate.vqa.scores import AnswerScores


@dataclass(frozen=True, slots=True)
class Score:
    """In per cent, with the ends of its 95 % interval. A score of a whole corpus has none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class SubsetScores:
    """The scores of some of the questions. A system is the model or a baseline."""

    name: str
    items: int
    clusters: int  # patients or images: the units that the bootstrap resamples
    scores: dict[str, dict[str, Score]]  # metric -> system -> score
    gains: dict[str, dict[str, Score]]  # metric -> baseline -> by how much the model is above it, a paired bootstrap


def score_subset(
    name: str,
    indices: Sequence[int],
    items: Sequence[EvalQuestion],
    answer_scores: Mapping[str, Sequence[AnswerScores]],
) -> SubsetScores:
    """Scores of the items with `indices`. `answer_scores`: system -> the scores of its answer to each of all items.

    A score of one cluster has no interval, unless it is 0 or 100: nothing shows how much clusters differ.
    """
    if not indices:
        return SubsetScores(name, 0, 0, {}, {})
    metrics = dict.fromkeys(metric for each in answer_scores.values() for index in indices for metric in each[index])
    columns = [(metric, system) for metric in metrics for system in (MODEL, *BASELINES) if system in answer_scores]
    pairs = np.array(
        [[answer_scores[system][index].get(metric, (0.0, 0.0)) for metric, system in columns] for index in indices]
    ).reshape(len(indices), len(columns), 2)
    clusters = [cluster_of(items[index]) for index in indices]
    cluster_ids = np.array([hash(cluster) for cluster in clusters])
    samples = 100 * resampled_ratios(pairs[..., 0], pairs[..., 1], clusters)
    sums = pairs.sum(0)
    subset = SubsetScores(name, len(indices), len(set(clusters)), {}, {})
    resampled = {}
    for number, (metric, system) in enumerate(columns):
        if sums[number, 1]:
            value = 100 * float(sums[number, 0] / sums[number, 1])
            counted = len(np.unique(cluster_ids[pairs[:, number, 1] > 0]))
            resampled[metric, system] = samples[:, number], value, counted
            ends = share_ends(value, samples[:, number], counted)
            subset.scores.setdefault(metric, {})[system] = Score(value, *ends)
    for (metric, system), (of_baseline, value, counted) in resampled.items():
        if system in BASELINES and (metric, MODEL) in resampled:
            of_model, score, _ = resampled[metric, MODEL]
            gain = Score(score - value, *difference_ends(score - value, of_model - of_baseline, counted))
            subset.gains.setdefault(metric, {})[system] = gain
    return subset


def cluster_of(item: EvalQuestion) -> tuple[Any, ...]:
    """What is resampled together: questions about one patient, or else about one image, are not independent."""
    return ("image", item.image_id) if item.group is None else ("group", item.group)


def subsets_by_type(items: Sequence[EvalQuestion]) -> dict[str, list[int]]:
    """Name -> indices of the items of each type, or of each kind if no item has a type. Empty for one subset only."""
    for field in ("type", "kind"):
        subsets: dict[str, list[int]] = {}
        for index, item in enumerate(items):
            name = getattr(item, field)
            if name is not None:
                subsets.setdefault(f"{field} {name}", []).append(index)
        if subsets and (len(subsets) > 1 or sum(map(len, subsets.values())) < len(items)):
            return subsets
    return {}
