"""Scores of single answers: (points, maximum) for each metric. A metric is the ratio of the sums, in per cent."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vglm_train.data.eval_questions import EvalQuestion
from vglm_train.evaluate.findings.scores import score_findings
from vglm_train.evaluate.findings.table import FindingsTable, shipped_table
from vglm_train.evaluate.metrics import vqav2
from vglm_train.evaluate.metrics.answers import (
    closed,
    commonest,
    exact,
    normalised,
    overlap,
    question_options,
    truth_polarity,
)

AnswerScores = dict[str, tuple[float, float]]  # metric -> (points, maximum)

_LETTER = re.compile(r"\(?([A-Za-z0-9])[.):、．：]?")


def score_answer(
    item: EvalQuestion, output: str, options: Sequence[str] = (), table: FindingsTable | None = None
) -> AnswerScores:
    """Scores of one answer; a metric that does not apply to the item is left out.

    closed: strict scoring of closed questions, whose choices are `options`; where the question letters its choices, a
    letter alone is its choice. exact, recall, f1: open questions, by
    words, the best over the true answers. accuracy: closed or exact, whichever the question is. v2: VQAv2's, for items
    with ten people's answers. Reports: recall and f1, and what `findings.scores` says of them by the findings `table`,
    the shipped one if None.
    """
    if item.kind == "report":
        return _overlap(item, output) | score_findings(" ".join(item.answers), output, table or shipped_table())
    scores: AnswerScores = {}
    if item.kind == "closed":
        answer = _spelled_out(item, output)
        scores["closed"] = scores["accuracy"] = (float(closed(answer, commonest(item.answers), options)), 1.0)
    else:
        scores["exact"] = scores["accuracy"] = (float(any(exact(output, truth) for truth in item.answers)), 1.0)
        scores |= _overlap(item, output)
    if len(item.answers) == vqav2.PEOPLE:
        scores["v2"] = (vqav2.accuracy(output, item.answers), 1.0)
    return scores


def _spelled_out(item: EvalQuestion, output: str) -> str:
    """The choice where the answer is no more than its letter in the question."""
    letter = _LETTER.fullmatch(output.strip())
    line = letter and re.search(rf"^{letter[1].upper()}\. (.*)$", item.dialogue.question, re.MULTILINE)
    return line[1] if line and line[1] in item.options else output


def _overlap(item: EvalQuestion, output: str) -> AnswerScores:
    recall, f1 = zip(*(overlap(output, truth) for truth in item.answers))
    return {"recall": (max(recall), 1.0), "f1": (max(f1), 1.0)}


def closed_options(items: Sequence[EvalQuestion]) -> list[list[str]]:
    """The choices of each closed question: its own where the row gives them, else those in its words, and the true
    answers to the same question or type."""
    answers: dict[tuple[Any, ...], dict[str, None]] = {}
    for item in items:
        truth = commonest(item.answers)
        if item.kind == "closed" and truth_polarity(truth) is None:
            for key in _question_keys(item):
                answers.setdefault(key, {})[truth] = None
    options = []
    for item in items:
        if item.options:
            options.append(list(item.options))
            continue
        named = question_options(item.dialogue.question, commonest(item.answers)) if item.kind == "closed" else []
        others = [name for key in _question_keys(item) for name in answers.get(key, ())]
        options.append(list(dict.fromkeys([*named, *others])))
    return options


def _question_keys(item: EvalQuestion) -> list[tuple[Any, ...]]:
    same: list[tuple[Any, ...]] = [("question", *normalised(item.dialogue.question))]
    return same if item.type is None else [*same, ("type", item.type)]


def total_scores(each: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, float]:
    """Scores of all answers together, in per cent; a metric whose maximum is 0 is left out."""
    sums: dict[str, list[float]] = {}
    for scores in each:
        for name, (points, maximum) in scores.items():
            pair = sums.setdefault(name, [0.0, 0.0])
            pair[0] += points
            pair[1] += maximum
    return {name: 100 * points / maximum for name, (points, maximum) in sums.items() if maximum}
