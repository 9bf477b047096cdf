"""The evaluation as one HTML file: scores beside baselines, a verdict in words, worst and best cases with pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from vglm_train.data.eval_questions import Asked
from vglm_train.evaluate.vqa.cases import HEADS, choose, show
from vglm_train.evaluate.vqa.evaluator import Examined, Task
from vglm_train.evaluate.vqa.generate import MODEL
from vglm_train.evaluate.vqa.intervals import Score, Section
from vglm_train.evaluate.vqa.verdict import Line, shown
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
    items: Sequence[Asked]
    found: Examined
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


def _score(found: Examined, who: str, name: str) -> Score | None:
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
