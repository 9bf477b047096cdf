"""What always giving the commonest answer would earn: the score that a model which never looks can reach."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Protocol

from vglm_train.evaluate.metrics.answers import commonest, normalised
from vglm_train.prompt.dialogue import Dialogue

OFTEN = 5  # times that a question must have been asked for its own commonest answer to mean something


class Known(Protocol):
    """What is needed of a question with its answers; no pictures."""

    @property
    def dialogue(self) -> Dialogue: ...
    @property
    def kind(self) -> str: ...
    @property
    def answers(self) -> tuple[str, ...]: ...
    @property
    def type(self) -> str | None: ...


@dataclass(frozen=True)
class Majority:
    """The commonest answer to questions of the same type; without types to the same question, if it is asked often;
    else to questions of the same kind and language, or of the same kind.
    """

    counts: dict[Hashable, Counter[str]]
    made_from: str  # in words

    @classmethod
    def of(cls, known: Iterable[Known], made_from: str) -> "Majority":
        counts: dict[Hashable, Counter[str]] = defaultdict(Counter)
        for item in known:
            answer = commonest(item.answers)
            for place in _places(item):
                counts[place][answer] += 1
        return cls(dict(counts), made_from)

    def answer(self, item: Known) -> str:
        """Empty where nothing like it is known."""
        for place in _places(item):
            found = self.counts.get(place)
            if found and (place[0] != "question" or found.total() >= OFTEN):
                return found.most_common(1)[0][0]
        return ""


def _places(item: Known) -> list[tuple]:
    """From the nearest to the farthest."""
    question = ("question", item.kind, *normalised(item.dialogue.question))
    nearest = question if item.type is None else ("type", item.kind, item.type)
    return [nearest, ("language", item.kind, item.dialogue.language), ("kind", item.kind)]
