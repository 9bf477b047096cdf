"""The rules by which protocols score an answer: points from 0 to 1, or None where a rule leaves the answer out."""

from collections import Counter
from collections.abc import Callable, Mapping

from vglm_train.evaluate.metrics import vqav2
from vglm_train.evaluate.metrics.answers import closed, exact, question_options
from vglm_train.evaluate.protocols.official import OfficialItem

AnswerRule = Callable[[OfficialItem, str], float | None]


def _strict(item: OfficialItem, output: str) -> float:
    if item.closed:
        truth = item.answers[0]
        return float(closed(output, truth, question_options(item.question, truth)))
    return float(any(exact(output, truth) for truth in item.answers))


def _gqa_lavis(item: OfficialItem, output: str) -> float:
    """LAVIS' GQATask processes both texts as VQA's, without making them one line first."""

    def process(text: str) -> str:
        return vqav2.with_plain_words(vqav2.without_punctuation(text))

    return float(process(output) == process(item.answers[0]))


def _llava_med_contains(item: OfficialItem, output: str) -> float:
    """As LLaVA-Med's program: letters are looked for and not words, so that "normal" says no."""
    return float(_llava_med_text(item.answers[0]) in _llava_med_text(output))


def _llava_med_recall(item: OfficialItem, output: str) -> float:
    """As LLaVA-Med's program: a word that both have counts as often as the answer says it, and a missing one as often
    as the truth does."""
    said, true = (Counter(_llava_med_text(_llava_med_text(text)).split()) for text in (output, item.answers[0]))
    found = sum(count for word, count in said.items() if word in true)
    missed = sum(count for word, count in true.items() if word not in said)
    return found / (found + missed) if found else 0.0


def _llava_med_text(text: str) -> str:
    """Small letters, then VQA's processing."""
    return vqav2.with_plain_words(vqav2.without_punctuation(text.lower()))


def _only(wanted: bool, rule: AnswerRule) -> AnswerRule:
    """The rule for closed questions alone, or for open ones."""
    return lambda item, output: rule(item, output) if item.closed == wanted else None


ANSWER_RULES: Mapping[str, AnswerRule] = {
    "vqa": lambda item, output: vqav2.official(output, item.answers),
    "vqa_lavis": lambda item, output: vqav2.lavis(output, item.answers),
    "gqa": lambda item, output: float(output == item.answers[0]),
    "gqa_lavis": _gqa_lavis,
    "strict": _strict,
    "closed_strict": _only(True, _strict),
    "open_exact": _only(False, _strict),
    "llava_med_contains": _only(True, _llava_med_contains),
    "llava_med_recall": _only(False, _llava_med_recall),
}


def mean(points: list[float]) -> float:
    """Per cent. Added in order, as official programs do, which decides the last digit."""
    return 100 * sum(points) / len(points)
