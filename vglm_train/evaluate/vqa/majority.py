"""The majority baseline: it always gives the commonest answer, which needs no image."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from vglm_train.evaluate.metrics.answers import commonest, normalised
from vglm_train.prompt.dialogue import Dialogue

MIN_COUNT = 5  # answers to the same question that its own commonest answer needs


class AnsweredQuestion(Protocol):
    """What the baseline needs of a question: no images."""

    @property
    def dialogue(self) -> Dialogue: ...
    @property
    def kind(self) -> str: ...
    @property
    def answers(self) -> tuple[str, ...]: ...
    @property
    def type(self) -> str | None: ...


@dataclass(frozen=True)
class MajorityBaseline:
    """The commonest answer to similar questions.

    Similar are questions of the same type in the same language. Without types: the same question if it has MIN_COUNT
    answers. Else questions of the same kind and language, else of the same kind. A report that answers no question is
    similar to those in its language.
    """

    counts: dict[Hashable, Counter[str]]  # group of questions -> their answers
    source: str  # where the answers are from, in words

    @classmethod
    def count(cls, questions: Iterable[AnsweredQuestion], source: str) -> "MajorityBaseline":
        """The baseline that gives the commonest answers to `questions`."""
        counts: dict[Hashable, Counter[str]] = defaultdict(Counter)
        for question in questions:
            answer = commonest(question.answers)
            for group in _groups(question):
                counts[group][answer] += 1
        return cls(dict(counts), source)

    def answer(self, question: AnsweredQuestion) -> str:
        """Its answer; empty if there was no similar question."""
        for group in _groups(question):
            answers = self.counts.get(group)
            if answers and (group[0] != "question" or answers.total() >= MIN_COUNT):
                return answers.most_common(1)[0][0]
        return ""


def _groups(question: AnsweredQuestion) -> list[tuple[Any, ...]]:
    """The groups that a question belongs to, the most similar first."""
    language = question.dialogue.language
    same = ("question", question.kind, language, *normalised(question.dialogue.question))
    nearest = same if question.type is None else ("type", question.kind, language, question.type)
    return [nearest, ("language", question.kind, language), ("kind", question.kind)]
