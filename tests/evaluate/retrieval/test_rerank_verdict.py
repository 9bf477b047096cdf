"""Whether re-ranking is told as worth nothing."""

import pytest

from vglm_train.evaluate.retrieval.outcomes import Outcomes
from vglm_train.evaluate.retrieval.verdict import assess_reranking


def assessed(rights, before=60.0, after=70.0, rerank=True):
    """Of ITM's right answers, of two, for each picture."""
    variants = ("", "rerank_") if rerank else ("",)
    outcomes = Outcomes([], [], [], {name: {} for name in variants}, {n: (own, 0) for n, own in enumerate(rights)})
    scores = {f"eval/en_{way}_r1": before for way in ("i2t", "t2i")}
    scores |= {f"eval/en_rerank_{way}_r1": after for way in ("i2t", "t2i")}
    return list(assess_reranking("en", outcomes, scores))


@pytest.mark.parametrize(
    ("rights", "after", "kind", "words"),
    [
        (
            [1] * 20,
            40.0,
            "warn",
            "50.0 %, 95 % [50.0, 50.0]: not told apart from chance, 50, so its order says nothing",
        ),
        ([1, 0] * 20, 70.0, "warn", "below chance"),
        ([2] * 19 + [1], 70.0, "ok", "above chance, 50; re-ranking by it: i2t_r1 60.0 -> 70.0"),
        (
            [2] * 19 + [1],
            50.0,
            "warn",
            "lowers recall (i2t_r1 60.0 -> 50.0, t2i_r1 60.0 -> 50.0); read the rows by ITC",
        ),
        ([2] * 3, 70.0, "warn", "too few to tell, 3 pictures"),
    ],
)
def test_a_line_of_verdict(rights, after, kind, words):
    (line,) = assessed(rights, after=after)
    assert line.kind == kind
    assert words in line.text
    assert ("--rerank 0" in line.text) == (kind == "warn" and len(rights) > 3)


def test_without_reranking_nothing_is_said():
    assert assessed([1] * 20, rerank=False) == []
