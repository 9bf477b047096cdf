"""The worst and the best answers with all their pictures, as pieces of the page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from vglm_train.data.eval_questions import Asked
from vglm_train.evaluate.base import picture
from vglm_train.evaluate.vqa.evaluator import Examined, Task
from vglm_train.evaluate.vqa.generate import MODEL, SHUFFLED
from vglm_train.evaluate.vqa.verdict import CHIEF
from vglm_train.report import html

CASES = 12  # worst, and as many best
HEADS = {"model": "model", "majority": "commonest answer", "shuffled": "another picture", "blank": "grey picture"}
SIDE = 224  # pixels of a picture's longer side


@dataclass(frozen=True, slots=True)
class Cases:
    """`places`: of the items that are shown, the most telling first; `count`: all there are of this kind."""

    name: str  # Worst, Best
    what: str  # it is; {} stands for the plural's s
    count: int
    places: Sequence[int]

    @property
    def title(self) -> str:
        shown, one, plural = len(self.places), self.what.format(""), self.what.format("s")
        if shown == self.count:
            told = {0: f"no {one}", 1: f"one {one}, the only one"}.get(shown, f"all {shown} {plural}")
        else:
            told = f"{shown} of {self.count} {plural}"
        return f"{self.name} cases: {told}"


def choose(task: Task, items: Sequence[Asked], found: Examined) -> tuple[Cases, Cases]:
    """Worst and best. Only wrong answers are among the worst, and only right ones among the best; of reports, which
    are right by degrees, at most half of all are on either side, none of the worst is word for word the true one, and
    each of the best has a word of it.
    """
    ranked = [(place, _worth(task, found, MODEL, place)) for place in _ranked(task, items, found)]
    if task == "vqa":
        wrong = [place for place, worth in ranked if worth < 1]
        right = [place for place, worth in reversed(ranked) if worth >= 1]
        names = "wrong answer{}", "right answer{}"
    else:
        half = (len(ranked) + 1) // 2
        wrong = [place for place, worth in ranked[:half] if worth < 1]
        right = [place for place, worth in reversed(ranked[len(wrong) :]) if worth > 0]
        names = "report{} of the lower half by f1", "report{} of the upper half by f1"
    worst, best = (
        Cases("Worst", names[0], len(wrong), wrong[:CASES]),
        Cases("Best", names[1], len(right), right[:CASES]),
    )
    return worst, best


def show(cases: Cases, items: Sequence[Asked], found: Examined) -> str:
    """HTML of a heading with a card for each case."""
    cards = "".join(_card(items[place], place, found) for place in cases.places)
    return f"<h2>{escape(cases.title)}</h2>{cards}"


def _worth(task: Task, found: Examined, who: str, place: int) -> float:
    earned, count = found.marks[who][place].get(CHIEF[task], (0.0, 1.0)) if who in found.marks else (0.0, 1.0)
    return earned / count


def _ranked(task: Task, items: Sequence[Asked], found: Examined) -> list[int]:
    """From worst to best; among equals, first those that another picture did better for, last those it did worse."""

    def rank(place: int) -> tuple[float, float]:
        own = _worth(task, found, MODEL, place)
        return own, own - _worth(task, found, SHUFFLED, place)

    return sorted(range(len(items)), key=rank)


def _card(item: Asked, place: int, found: Examined) -> str:
    seen = "".join(html.image(picture(pixels), SIDE) for pixels in item.pixels)
    rows = "".join(
        f'<tr class="{kind}"><th>{escape(name)}</th><td>{escape(text) or "<small>(nothing)</small>"}</td></tr>'
        for name, text, kind in _told(item, place, found)
    )
    language = escape(item.dialogue.language)
    return f'<div class="case" lang="{language}"><div class="pictures">{seen}</div><table>{rows}</table></div>'


def _told(item: Asked, place: int, found: Examined) -> Iterator[tuple[str, str, str]]:
    """Name, text, and whether it is the main thing, of each row of a card."""
    for turn in item.dialogue.history:
        yield "asked before", f"{turn.question}\n{turn.answer}", "aside"
    if item.dialogue.question:  # none of a picture with captions
        yield "question", item.dialogue.question, "main"
    yield "truth", " | ".join(dict.fromkeys(item.answers)), "main"
    for who, name in HEADS.items():
        if who in found.outputs:
            yield name, found.outputs[who][place], "main" if who == MODEL else "aside"
    marks = found.marks[MODEL][place].items()
    yield "earned", ", ".join(f"{name} {100 * value / count:.0f}" for name, (value, count) in marks if count), "aside"
    yield "where", f"{item.key} {item.picture}", "aside"
