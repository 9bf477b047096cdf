"""The HTML page of a vqa or report evaluation: verdict, scores with intervals, worst and best cases with images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from vglm_train.config.metric_names import ANSWER_SCORES, BLANK, MAJORITY, MODEL, SHUFFLED, VqaTask
from vglm_train.data.eval_choice import hash_of
from vglm_train.data.eval_questions import EvalQuestion
from vglm_train.evaluate.base import to_pil
from vglm_train.evaluate.findings import quality
from vglm_train.evaluate.findings.table import FindingsTable
from vglm_train.evaluate.vqa.evaluator import VqaResult
from vglm_train.evaluate.vqa.intervals import Score, SubsetScores
from vglm_train.evaluate.vqa.verdict import MAIN_SCORE, format_gain
from vglm_train.report import html

TITLES = {MODEL: "model", MAJORITY: "commonest answer", SHUFFLED: "another picture", BLANK: "grey picture"}
CASES = 12  # worst, and as many best
IMAGE_SIDE = 224  # pixels of an image's longer side


@dataclass(frozen=True, slots=True)
class PageData:
    """All that the page shows."""

    title: str
    task: VqaTask
    items: Sequence[EvalQuestion]
    result: VqaResult
    subsets: Sequence[SubsetScores]  # the first one of all items
    verdict: Sequence[html.VerdictLine]
    selection: str  # which questions were asked
    majority_source: str  # where the commonest answers are from
    intervals: str  # how the intervals were computed
    findings: FindingsTable | None = None  # by which reports were scored


@dataclass(frozen=True, slots=True)
class Cases:
    """Worst or best cases: `indices` of the items that are shown, of `count` that there are."""

    name: str  # Worst, Best
    noun: str  # what they are; {} stands for the plural's s
    count: int
    indices: Sequence[int]

    @property
    def title(self) -> str:
        shown, singular, plural = len(self.indices), self.noun.format(""), self.noun.format("s")
        if shown == self.count:
            text = {0: f"no {singular}", 1: f"one {singular}, the only one"}.get(shown, f"all {shown} {plural}")
        else:
            text = f"{shown} shown of {self.count} {plural}"
        return f"{self.name} cases: {text}"


def render_page(data: PageData) -> str:
    """HTML of the whole page, which loads nothing."""
    return html.document(data.title, render_parts(data))


def render_parts(data: PageData) -> list[str]:
    """HTML of the parts of its body."""
    result = data.result
    parts = [f"<h1>{escape(data.title)}</h1><h2>Can it be trusted?</h2>{html.verdict(data.verdict)}"]
    small = f"Asked: {data.selection}. Commonest answers: {data.majority_source}. {data.intervals}."
    parts.append(f"<p><small>{escape(small)}</small></p>")
    parts += [_subset(subset) for subset in data.subsets]
    parts.append(_corpus_scores(data))
    if data.findings is not None:
        parts.append(quality.section(data.findings))
    parts += [render_cases(cases, data.items, result) for cases in choose_cases(data.task, data.items, result)]
    parts += [
        f"<p><small>{escape(language)}, {escape(name)}: {escape(tool)}</small></p>"
        for language, made_by in result.made_by.items()
        for name, tool in made_by.items()
    ]
    parts += [f"<p>{escape(note)}</p>" for notes in result.notes.values() for note in notes]
    return parts


def _subset(subset: SubsetScores) -> str:
    systems = [system for system in TITLES if any(system in row for row in subset.scores.values())]
    rows = [
        [_metric_cell(metric), *(_cell(row.get(each), subset.gains.get(metric, {}).get(each)) for each in systems)]
        for metric, row in subset.scores.items()
    ]
    title = f"{subset.name}: {subset.items} questions, {subset.clusters} patients or pictures"
    return f"<h2>{escape(title)}</h2>{_table(systems, rows)}"


def _corpus_scores(data: PageData) -> str:
    """Scores of all texts together, which have no interval."""
    scores = data.result.scores
    systems = [system for system in TITLES if system in scores]
    metrics = [metric for metric in scores[MODEL] if metric not in data.subsets[0].scores]
    rows = [[_metric_cell(metric), *(_cell(_score(scores[each], metric)) for each in systems)] for metric in metrics]
    return f"<h2>Over all texts together</h2>{_table(systems, rows)}"


def _score(scores: dict[str, float], metric: str) -> Score | None:
    return Score(scores[metric]) if metric in scores else None


def _table(systems: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A row for each metric, a column for each system."""
    titles = "".join(f"<th>{escape(TITLES[system])}</th>" for system in systems)
    body = "".join("<tr>" + "".join(cells) + "</tr>" for cells in rows)
    return f'<div class="wide scores"><table><tr><th>per cent</th>{titles}</tr>{body}</table></div>'


def _metric_cell(metric: str) -> str:
    meaning = ANSWER_SCORES.get(metric)
    return f"<th>{escape(metric)}" + (f"<br><small>{escape(meaning)}</small></th>" if meaning else "</th>")


def _cell(score: Score | None, gain: Score | None = None) -> str:
    """A table cell. `gain`: how much the model is above this score."""
    if score is None:
        return "<td></td>"
    ends = "" if score.low is None else f" <small>[{score.low:.1f}, {score.high:.1f}]</small>"
    above = "" if gain is None else f"<br><small>model {escape(format_gain(gain))}</small>"
    return f'<td class="number">{score.value:.1f}{ends}{above}</td>'


def choose_cases(task: VqaTask, items: Sequence[EvalQuestion], result: VqaResult) -> tuple[Cases, Cases]:
    """(worst, best) cases.

    vqa: the worst are wrong answers only, the best are right answers only. A report is right by degrees, so at most
    half of all reports are on either side; the worst are not word for word the true ones, and the best share a word
    with these.
    """
    ranked = [(index, _points(task, result, MODEL, index)) for index in _ranked(task, items, result)]
    if task == "vqa":
        wrong = [index for index, points in ranked if points < 1]
        right = [index for index, points in reversed(ranked) if points >= 1]
        nouns = "wrong answer{}", "right answer{}"
    else:
        half = (len(ranked) + 1) // 2
        wrong = [index for index, points in ranked[:half] if points < 1]
        right = [index for index, points in reversed(ranked[len(wrong) :]) if points > 0]
        nouns = "report{} of the lower half by f1", "report{} of the upper half by f1"
    worst = Cases("Worst", nouns[0], len(wrong), wrong[:CASES])
    return worst, Cases("Best", nouns[1], len(right), right[:CASES])


def _points(task: VqaTask, result: VqaResult, system: str, index: int) -> float:
    """The main score of one answer, from 0 to 1."""
    if system not in result.answer_scores:
        return 0.0
    points, maximum = result.answer_scores[system][index].get(MAIN_SCORE[task], (0.0, 1.0))
    return points / maximum


def _ranked(task: VqaTask, items: Sequence[EvalQuestion], result: VqaResult) -> list[int]:
    """Indices of the items, the worst answer first.

    Of equal answers, those come first for which the answer to another image was better, and last those for which it
    was worse. What is still equal comes by a hash, so that not all that is shown is of the first source.
    """

    def key(index: int) -> tuple[float, float, int]:
        points, item = _points(task, result, MODEL, index), items[index]
        return points, points - _points(task, result, SHUFFLED, index), hash_of(item.source, item.key)

    return sorted(range(len(items)), key=key)


def render_cases(cases: Cases, items: Sequence[EvalQuestion], result: VqaResult) -> str:
    """HTML of a heading with a card for each case."""
    cards = "".join(_card(items[index], index, result) for index in cases.indices)
    return f"<h2>{escape(cases.title)}</h2>{cards}"


def _card(item: EvalQuestion, index: int, result: VqaResult) -> str:
    images = "".join(html.image(to_pil(pixels), IMAGE_SIDE) for pixels in item.pixels)
    rows = "".join(
        f'<tr class="{style}"><th>{escape(name)}</th><td>{escape(text) or "<small>(nothing)</small>"}</td></tr>'
        for name, text, style in _card_rows(item, index, result)
    )
    language = escape(item.dialogue.language)
    return f'<div class="case" lang="{language}"><div class="pictures">{images}</div><table>{rows}</table></div>'


def _card_rows(item: EvalQuestion, index: int, result: VqaResult) -> Iterator[tuple[str, str, str]]:
    """(name, text, style) of each row; the style is `main`, or `aside` for what is small print."""
    for turn in item.dialogue.history:
        yield "asked before", f"{turn.question}\n{turn.answer}", "aside"
    if item.dialogue.question:  # an image with captions has none
        yield "question", item.dialogue.question, "main"
    yield "truth", " | ".join(dict.fromkeys(item.answers)), "main"
    for system, title in TITLES.items():
        if system in result.outputs:
            yield title, result.outputs[system][index], "main" if system == MODEL else "aside"
    scores = result.answer_scores[MODEL][index].items()
    per_cent = [f"{name} {100 * points / maximum:.0f}" for name, (points, maximum) in scores if maximum]
    yield "earned", ", ".join(per_cent), "aside"
    yield "where", f"{item.key} {item.picture}", "aside"
