"""The evaluation as one HTML file: scores beside baselines, a verdict in words, worst and best cases with pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from vglm_train.data.questions import Asked
from vglm_train.evaluate.answering import MODEL, SHUFFLED
from vglm_train.evaluate.base import picture
from vglm_train.evaluate.examination import Examined, Task
from vglm_train.evaluate.judgement import CHIEF, Line, shown
from vglm_train.evaluate.sections import BASELINES, Score, Section
from vglm_train.log.rows import Cell
from vglm_train.report import html

CASES = 12  # worst, and as many best
HEADS = {"model": "model", "majority": "commonest answer", "shuffled": "another picture", "blank": "grey picture"}
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
    majority: str  # where the commonest answers are from
    intervals: str


def page(given: Page) -> str:
    """HTML that needs nothing else."""
    parts = [f"<h1>{escape(given.title)}</h1><h2>Can it be trusted?</h2><ul>"]
    parts += [f'<li class="{line.kind}">{escape(line.text)}</li>' for line in given.verdict]
    parts.append(f"</ul><p><small>Commonest answers: {escape(given.majority)}. {escape(given.intervals)}.</small></p>")
    parts += [_section(section) for section in given.sections]
    parts.append(_whole(given))
    ranked = _ranked(given)
    for name, places in (("Worst", ranked[:CASES]), ("Best", ranked[::-1][:CASES])):
        parts.append(f"<h2>{name} cases</h2>{html.table(_columns(given), [_case(given, place) for place in places])}")
    parts += [
        f"<p><small>{escape(language)}, {escape(name)}: {escape(tool)}</small></p>"
        for language, made in given.found.made_by.items()
        for name, tool in made.items()
    ]
    parts += [f"<p>{escape(note)}</p>" for notes in given.found.notes.values() for note in notes]
    return html.document(given.title, parts)


def _section(section: Section) -> str:
    present = [who for who in HEADS if any(who in row for row in section.scores.values())]
    gains = [who for who in BASELINES if any(who in row for row in section.gains.values())]
    head = ["per cent", *(HEADS[who] for who in present), *(f"above {HEADS[who]}" for who in gains)]
    rows = [
        [_named(metric), *(_number(row.get(who)) for who in present), *(_gain(section, metric, who) for who in gains)]
        for metric, row in section.scores.items()
    ]
    title = f"{section.name}: {section.items} questions, {section.clusters} patients or pictures"
    body = "".join("<tr>" + "".join(cells) + "</tr>" for cells in rows)
    titles = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f"<h2>{escape(title)}</h2><table><tr>{titles}</tr>{body}</table>"


def _whole(given: Page) -> str:
    """Scores of all texts together, which have no interval."""
    known = given.sections[0].scores
    present = [who for who in HEADS if who in given.found.scores]
    names = [name for name in given.found.scores[MODEL] if name not in known]
    rows = "".join(
        f"<tr>{_named(name)}" + "".join(_number(_score(given.found, who, name)) for who in present) + "</tr>"
        for name in names
    )
    titles = "".join(f"<th>{escape(HEADS[who])}</th>" for who in present)
    return f"<h2>Over all texts together</h2><table><tr><th>per cent</th>{titles}</tr>{rows}</table>"


def _score(found: Examined, who: str, name: str) -> Score | None:
    value = found.scores[who].get(name)
    return None if value is None else Score(value)


def _named(metric: str) -> str:
    meaning = MEANING.get(metric)
    return f"<th>{escape(metric)}" + (f"<br><small>{escape(meaning)}</small></th>" if meaning else "</th>")


def _number(score: Score | None) -> str:
    if score is None:
        return "<td></td>"
    ends = "" if score.low is None else f" <small>[{score.low:.1f}, {score.high:.1f}]</small>"
    return f'<td class="number">{score.value:.1f}{ends}</td>'


def _gain(section: Section, metric: str, who: str) -> str:
    gain = section.gains.get(metric, {}).get(who)
    return "<td></td>" if gain is None else f'<td class="number">{escape(shown(gain))}</td>'


def _ranked(given: Page) -> list[int]:
    """From worst to best; among equals, first those that another picture did better for, last those it did worse."""
    chief, marks = CHIEF[given.task], given.found.marks

    def worth(who: str, place: int) -> float:
        earned, count = marks[who][place].get(chief, (0.0, 1.0)) if who in marks else (0.0, 1.0)
        return earned / count

    def rank(place: int) -> tuple[float, float]:
        own = worth(MODEL, place)
        return own, own - worth(SHUFFLED, place)

    return sorted(range(len(given.items)), key=rank)


def _columns(given: Page) -> list[str]:
    answered = [HEADS[who] for who in HEADS if who in given.found.outputs]
    return ["picture", "question", "truth", *answered, "earned", "key"]


def _case(given: Page, place: int) -> list[Cell]:
    item = given.items[place]
    earned = given.found.marks[MODEL][place]
    return [
        picture(item.pixels[0]),
        item.dialogue.question,
        " | ".join(dict.fromkeys(item.answers)),
        *(given.found.outputs[who][place] for who in HEADS if who in given.found.outputs),
        ", ".join(f"{name} {100 * value / count:.0f}" for name, (value, count) in earned.items() if count),
        f"{item.key} {item.picture}",
    ]
