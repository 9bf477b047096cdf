"""What an answer earns: one pair (earned, out of) a metric. A score is the ratio of the sums, in per cent."""

from collections.abc import Mapping, Sequence

from vglm_train.data.eval_questions import EvalQuestion
from vglm_train.evaluate.metrics import vqav2
from vglm_train.evaluate.metrics.answers import closed, commonest, exact, normalised, offered, overlap, truth_polarity
from vglm_train.evaluate.metrics.findings import findings, is_normal

AnswerScores = dict[str, tuple[float, float]]


def score_answer(item: EvalQuestion, output: str, options: Sequence[str] = ()) -> AnswerScores:
    """By metric; one that does not apply to the item is not there.

    closed: the strict scorer. exact, recall, f1: open questions, words, the best over the answers given. accuracy:
    closed where it is closed, else exact. v2: VQAv2's, where ten people answered. Reports: recall, f1 and what is
    abnormal in them: finding_recall (of the findings that are true, those stated), finding_precision, normal (states
    none), normal_truth.
    """
    if item.kind == "report":
        return _report(item, output)
    found: AnswerScores = {}
    if item.kind == "closed":
        found["closed"] = found["accuracy"] = (float(closed(output, commonest(item.answers), options)), 1.0)
    else:
        found["exact"] = found["accuracy"] = (float(any(exact(output, truth) for truth in item.answers)), 1.0)
        found |= _overlap(item, output)
    if len(item.answers) == vqav2.PEOPLE:
        found["v2"] = (vqav2.accuracy(output, item.answers), 1.0)
    return found


def _overlap(item: EvalQuestion, output: str) -> AnswerScores:
    recall, f1 = zip(*(overlap(output, truth) for truth in item.answers))
    return {"recall": (max(recall), 1.0), "f1": (max(f1), 1.0)}


def _report(item: EvalQuestion, output: str) -> AnswerScores:
    truth, stated = findings(" ".join(item.answers)), findings(output)
    shared = float(len(truth & stated))
    return {
        **_overlap(item, output),
        "finding_recall": (shared, float(len(truth))),
        "finding_precision": (shared, float(len(stated))),
        "normal": (float(is_normal(output)), 1.0),
        "normal_truth": (float(not truth), 1.0),
    }


def options(items: Sequence[EvalQuestion]) -> list[list[str]]:
    """What each closed question can be answered by: choices in its words, and answers to the same question or type."""
    known: dict[tuple, dict[str, None]] = {}
    for item in items:
        truth = commonest(item.answers)
        if item.kind == "closed" and truth_polarity(truth) is None:
            for place in _question_keys(item):
                known.setdefault(place, {})[truth] = None
    found = []
    for item in items:
        own = offered(item.dialogue.question, commonest(item.answers)) if item.kind == "closed" else []
        found.append(
            list(dict.fromkeys([*own, *(name for place in _question_keys(item) for name in known.get(place, ()))]))
        )
    return found


def _question_keys(item: EvalQuestion) -> list[tuple]:
    same: list[tuple] = [("question", *normalised(item.dialogue.question))]
    return same if item.type is None else [*same, ("type", item.type)]


def total(each: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, float]:
    """Scores in per cent; none where nothing was to be had."""
    sums: dict[str, list[float]] = {}
    for found in each:
        for name, (earned, count) in found.items():
            pair = sums.setdefault(name, [0.0, 0.0])
            pair[0] += earned
            pair[1] += count
    return {name: 100 * earned / count for name, (earned, count) in sums.items() if count}
