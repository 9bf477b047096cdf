"""Scores with intervals, paired differences, subsets, and what the verdict says of them."""

import numpy as np
import pytest
from made_questions import made_question

from vglm_train.evaluate.metrics.bootstrap import interval, interval_at_an_end, mean_interval, resampled_ratios
from vglm_train.evaluate.vqa.intervals import score_subset, subsets_by_type
from vglm_train.evaluate.vqa.verdict import assess_reports, assess_scores


def answer_scores(values, count=1.0):
    return [{"accuracy": (float(value), count)} for value in values]


def made(own, majority, **changes):
    items = [made_question(0, "what?", "it", image_id=n, **changes) for n in range(len(own))]
    indices = list(range(len(items)))
    return score_subset("all", indices, items, {"model": answer_scores(own), "majority": answer_scores(majority)})


def test_ratios_of_single_rows_are_means():
    values = np.random.default_rng(1).integers(0, 2, 80).astype(float)
    samples = resampled_ratios(values[:, None], np.ones((80, 1)), range(80))
    assert interval(samples[:, 0]) == pytest.approx(mean_interval(values.tolist()), abs=0.015)
    assert samples.mean() == pytest.approx(values.mean(), abs=0.003)


def test_what_belongs_together_is_drawn_together():
    values = np.repeat(np.random.default_rng(2).integers(0, 2, 40), 10).astype(float)  # ten equal questions a patient
    own, together = (
        np.diff(interval(resampled_ratios(values[:, None], np.ones((400, 1)), names)[:, 0]))
        for names in (range(400), np.repeat(range(40), 10))
    )
    assert together == pytest.approx(own * 10**0.5, rel=0.15)  # as many as there are patients


def test_differences_are_paired():
    rng = np.random.default_rng(3)
    base = rng.integers(0, 2, 200)
    better = np.maximum(base, rng.random(200) < 0.1)  # never worse, a tenth of the questions drawn better
    found = made(better, base)
    gain = found.gains["accuracy"]["majority"]
    assert gain.value == pytest.approx(100 * (better - base).mean())
    assert 0 < gain.low < gain.value < gain.high < 15
    apart = found.scores["accuracy"]
    assert apart["model"].low < apart["majority"].high  # unpaired, nothing could be said
    assert "model" not in found.gains["accuracy"]


def test_a_metric_that_does_not_apply_is_left_out():
    items = [made_question(0, "what?", "it", image_id=n) for n in range(4)]
    scores = {"model": [*answer_scores([1, 0, 1]), {"closed": (1.0, 1.0)}]}
    found = score_subset("all", [0, 1, 2, 3], items, scores)
    assert found.scores["accuracy"]["model"].value == pytest.approx(200 / 3)
    assert found.scores["closed"]["model"].value == 100
    assert score_subset("some", [0, 1], items, scores).scores.keys() == {"accuracy"}
    nothing = {"model": [{"finding_recall": (0.0, 0.0)}] * 4}
    assert score_subset("all", [0, 1, 2, 3], items, nothing).scores == {}


def test_clusters_are_patients_else_pictures():
    items = [made_question(0, "what?", "it", image_id=n // 2, group="p" if n < 4 else None) for n in range(8)]
    assert score_subset("all", range(8), items, {"model": answer_scores([1] * 8)}).clusters == 3


def test_subsets_by_type_else_by_kind():
    typed = [made_question(0, "what?", "it", type=name) for name in ("plane", "plane", None)]
    assert subsets_by_type(typed) == {"type plane": [0, 1]}
    kinds = [made_question(0, "what?", "it", kind=kind) for kind in ("open", "closed", "open")]
    assert subsets_by_type(kinds) == {"kind open": [0, 2], "kind closed": [1]}
    assert subsets_by_type(kinds[:1]) == {}


@pytest.mark.parametrize(
    ("own", "majority", "kind", "words"),
    [
        ([1] * 40, [1, 0] * 20, "ok", "above it"),
        ([1, 0] * 20, [1, 0] * 20, "warn", "not told apart from it"),
        ([0] * 40, [1] * 40, "warn", "below it"),
    ],
)
def test_verdict(own, majority, kind, words):
    (line,) = assess_scores("vqa", made(own, majority))
    assert line.kind == kind
    assert line.text.endswith(words)
    assert "always giving the commonest answer" in line.text


def test_reports_that_all_say_normal_are_not_trusted():
    normal = {"distinct": 1.0, "distinct_truth": 90.0, "normal": 100.0, "normal_truth": 30.0, "finding_recall": 0.0}
    assert [line.kind for line in assess_reports(normal)] == ["warn"] * 3
    good = {
        "distinct": 70.0, "distinct_truth": 90.0, "normal": 35.0, "normal_truth": 30.0, "finding_recall": 60.0,
        "finding_precision": 50.0,
    }  # fmt: skip
    assert [line.kind for line in assess_reports(good)] == ["ok"] * 3


def test_one_question_and_none_have_no_interval():
    found = made([0.5], [0.25])
    score = found.scores["accuracy"]["model"]
    assert (score.value, score.low, score.high) == (50, None, None)
    gain = found.gains["accuracy"]["majority"]
    assert (gain.value, gain.low) == (25, None)
    (line,) = assess_scores("vqa", found)
    assert line.kind == "warn"
    assert line.text.endswith("+25.0: too few to tell, 1 patients or pictures")
    right = made([1], [0]).scores["accuracy"]["model"]
    assert (right.low, right.high) == pytest.approx((2.5, 100))
    none = score_subset("none", [], [], {"model": [], "majority": []})
    assert (none.items, none.scores, none.gains) == (0, {}, {})
    assert assess_scores("vqa", none) == []


def test_a_difference_that_is_the_same_everywhere_leaves_doubt():
    gain = made([1] * 6, [0] * 6).gains["accuracy"]["majority"]
    assert (gain.value, gain.high) == (100, 100)
    assert gain.low == pytest.approx(100 * 0.025 ** (1 / 6))
    worse = made([0] * 6, [1] * 6).gains["accuracy"]["majority"]
    assert (worse.low, worse.high) == pytest.approx((-100, -gain.low))
    same = made([1, 0, 1, 0, 1, 0], [1, 0, 1, 0, 1, 0]).gains["accuracy"]["majority"]
    assert (same.value, same.low, same.high) == (0, 0, 0)


@pytest.mark.parametrize("n", [1, 12, 400])
def test_all_or_none_of_a_few_leaves_doubt(n):
    """The bound is the share at which such a result would still come in one of forty cases."""
    low, high = interval_at_an_end(1.0, n)
    assert high == 1.0
    assert low**n == pytest.approx(0.025)
    assert interval_at_an_end(0.0, n) == (0.0, pytest.approx(1 - low))
