"""The evaluation as one HTML file: scores beside baselines, a verdict in words, worst and best cases with pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from vglm_train.data.eval_questions import EvalQuestion
from vglm_train.evaluate.base import picture
from vglm_train.evaluate.vqa.evaluator import Task, VqaResult
from vglm_train.evaluate.vqa.generate import MODEL, SHUFFLED
from vglm_train.evaluate.vqa.intervals import Score, Section
from vglm_train.evaluate.vqa.verdict import CHIEF, Line, shown
from vglm_train.report import html

MEANING = {
    "accuracy": "closed or exact, all questions",
    "closed": "closed questions, strict: first yes or no, or the option",
    "exact": "open questions, the same words",
    "recall": "true words that were said",
    "f1": "words, F1",
    "v2": "VQAv2, ten people",
    "distinct": "different texts, of all",
    "distinct_truth": "different true texts",
    "finding_recall": "true abnormal findings that are stated",
    "finding_precision": "stated abnormal findings that are true",
    "normal": "reports that state no abnormal finding",
    "normal_truth": "true reports that state none",
}


@dataclass(frozen=True, slots=True)
class Page:
    """All that is told."""

    title: str
    task: Task
    items: Sequence[EvalQuestion]
    found: VqaResult
    sections: Sequence[Section]  # the first one of all items
    verdict: Sequence[Line]
    asked: str  # what of the data
    majority: str  # where the commonest answers are from
    intervals: str


def page(given: Page) -> str:
    """HTML that needs nothing else."""
    parts = [f"<h1>{escape(given.title)}</h1><h2>Can it be trusted?</h2><ul>"]
    parts += [f'<li class="{line.kind}">{escape(line.text)}</li>' for line in given.verdict]
    small = f"Asked: {given.asked}. Commonest answers: {given.majority}. {given.intervals}."
    parts.append(f"</ul><p><small>{escape(small)}</small></p>")
    parts += [_section(section) for section in given.sections]
    parts.append(_whole(given))
    chosen = choose(given.task, given.items, given.found)
    parts += [show(cases, given.items, given.found) for cases in chosen]
    parts += [
        f"<p><small>{escape(language)}, {escape(name)}: {escape(tool)}</small></p>"
        for language, made in given.found.made_by.items()
        for name, tool in made.items()
    ]
    parts += [f"<p>{escape(note)}</p>" for notes in given.found.notes.values() for note in notes]
    return html.document(given.title, parts)


def _section(section: Section) -> str:
    present = [who for who in HEADS if any(who in row for row in section.scores.values())]
    rows = [
        [_named(metric), *(_number(row.get(who), section.gains.get(metric, {}).get(who)) for who in present)]
        for metric, row in section.scores.items()
    ]
    title = f"{section.name}: {section.items} questions, {section.clusters} patients or pictures"
    return f"<h2>{escape(title)}</h2>{_table(present, rows)}"


def _whole(given: Page) -> str:
    """Scores of all texts together, which have no interval."""
    known = given.sections[0].scores
    present = [who for who in HEADS if who in given.found.scores]
    names = [name for name in given.found.scores[MODEL] if name not in known]
    rows = [[_named(name), *(_number(_score(given.found, who, name)) for who in present)] for name in names]
    return f"<h2>Over all texts together</h2>{_table(present, rows)}"


def _table(present: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A row a metric, a column for each who answered."""
    titles = "".join(f"<th>{escape(HEADS[who])}</th>" for who in present)
    body = "".join("<tr>" + "".join(cells) + "</tr>" for cells in rows)
    return f'<div class="wide scores"><table><tr><th>per cent</th>{titles}</tr>{body}</table></div>'


def _score(found: VqaResult, who: str, name: str) -> Score | None:
    value = found.scores[who].get(name)
    return None if value is None else Score(value)


def _named(metric: str) -> str:
    meaning = MEANING.get(metric)
    return f"<th>{escape(metric)}" + (f"<br><small>{escape(meaning)}</small></th>" if meaning else "</th>")


def _number(score: Score | None, gain: Score | None = None) -> str:
    """A cell; `gain`: how much the model is above it."""
    if score is None:
        return "<td></td>"
    ends = "" if score.low is None else f" <small>[{score.low:.1f}, {score.high:.1f}]</small>"
    above = "" if gain is None else f"<br><small>model {escape(shown(gain))}</small>"
    return f'<td class="number">{score.value:.1f}{ends}{above}</td>'


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


def choose(task: Task, items: Sequence[EvalQuestion], found: VqaResult) -> tuple[Cases, Cases]:
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


def show(cases: Cases, items: Sequence[EvalQuestion], found: VqaResult) -> str:
    """HTML of a heading with a card for each case."""
    cards = "".join(_card(items[place], place, found) for place in cases.places)
    return f"<h2>{escape(cases.title)}</h2>{cards}"


def _worth(task: Task, found: VqaResult, who: str, place: int) -> float:
    earned, count = found.marks[who][place].get(CHIEF[task], (0.0, 1.0)) if who in found.marks else (0.0, 1.0)
    return earned / count


def _ranked(task: Task, items: Sequence[EvalQuestion], found: VqaResult) -> list[int]:
    """From worst to best; among equals, first those that another picture did better for, last those it did worse."""

    def rank(place: int) -> tuple[float, float]:
        own = _worth(task, found, MODEL, place)
        return own, own - _worth(task, found, SHUFFLED, place)

    return sorted(range(len(items)), key=rank)


def _card(item: EvalQuestion, place: int, found: VqaResult) -> str:
    seen = "".join(html.image(picture(pixels), SIDE) for pixels in item.pixels)
    rows = "".join(
        f'<tr class="{kind}"><th>{escape(name)}</th><td>{escape(text) or "<small>(nothing)</small>"}</td></tr>'
        for name, text, kind in _told(item, place, found)
    )
    language = escape(item.dialogue.language)
    return f'<div class="case" lang="{language}"><div class="pictures">{seen}</div><table>{rows}</table></div>'


def _told(item: EvalQuestion, place: int, found: VqaResult) -> Iterator[tuple[str, str, str]]:
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
