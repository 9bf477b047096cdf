"""The report as one HTML page that loads nothing: verdicts, curves, last values and examples."""

import base64
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

from vglm_train.log.health_words import Note, explained, line
from vglm_train.log.jsonl import LoggedTable
from vglm_train.log.tongues import Text, Tongue
from vglm_train.report import html, reference
from vglm_train.report.charts import tables
from vglm_train.report.runs import LoggedRun
from vglm_train.report.sentence import Sentence
from vglm_train.report.verdict import is_stage_two

MAX_ROWS = 16  # of an example table
TITLE = Text("Report: ", "报告：")
VERDICT = Text("Is the loss normal?", "loss 正常吗？")
CURVES = Text("Curves", "曲线")
PUBLISHED = Text("Black: the published curve of", "黑色：已发表的曲线，")
VALUES = Text("Last values", "最新数值")
NOT_FINITE = Text("not finite", "非有限数")
STEP = Text("step", "步数")
WRITTEN = Text("As it was at", "写于")
TRY = Text("Try:", "可以试试：")


def render_page(
    runs: Sequence[LoggedRun],
    health: Sequence[list[Note]],
    verdicts: Sequence[list[Sentence]],
    curves: Path,
    language: Tongue = "en",
) -> str:
    """HTML with health and verdict of each run, the PNG `curves`, last values, and the newest examples of each run."""
    title = TITLE.of(language) + ", ".join(run.label for run in runs)
    when = f"{WRITTEN.of(language)} {time.strftime('%Y-%m-%d %H:%M')}"
    parts = [f"<h1>{escape(title)}</h1><p>{when}</p>", f"<h2>{VERDICT.of(language)}</h2>"]
    for number, (run, notes, sentences) in enumerate(zip(runs, health, verdicts), 1):
        parts.append(f"<h3>{number}: {escape(run.label)}</h3><p><code>{escape(str(run.folder))}</code></p>")
        parts.append(_health(notes, language))
        parts.append(html.verdict(sentence.line(language) for sentence in sentences))
    picture = base64.b64encode(curves.read_bytes()).decode()
    parts.append(f"<h2>{CURVES.of(language)}</h2>")
    if any(not is_stage_two(run) for run in runs):
        parts.append(f"<p>{PUBLISHED.of(language)} {escape(reference.SOURCE)}</p>")
    parts.append(f'<div class="wide"><img class="curves" alt="curves" src="data:image/png;base64,{picture}"></div>')
    parts += [f"<h2>{VALUES.of(language)}</h2>", _last_values(runs, language)]
    parts += [_examples(run, language) for run in runs]
    return html.document(title, parts, language)


def _health(notes: Sequence[Note], language: Tongue) -> str:
    """The line of the live page, and for what needs it what it means and what to try."""
    parts = [f"<p><b>{escape(line(notes, language))}</b></p>"]
    for words in explained(notes, language):
        to_try = f" <b>{TRY.of(language)}</b> {escape(words.to_try)}" if words.to_try else ""
        parts.append(f"<p><b>{escape(words.short)}</b>: {escape(words.means)}{to_try}</p>")
    return "".join(parts)


def _last_values(runs: Sequence[LoggedRun], language: Tongue) -> str:
    names = sorted(set().union(*(run.names() for run in runs)))
    head = "".join(f"<th>{escape(run.label)}</th>" for run in runs)
    rows = []
    for name in names:
        cells = "".join(f"<td>{_last_value(run, name, language)}</td>" for run in runs)
        rows.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    return f'<div class="wide"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'


def _last_value(run: LoggedRun, name: str, language: Tongue) -> str:
    value = run.last(name)
    if name not in run.names():
        return ""
    return format(value, ".5g") if value is not None and run.is_finite(name) else NOT_FINITE.of(language)


def _examples(run: LoggedRun, language: Tongue) -> str:
    """The newest table of each name, in the order of sections."""
    newest = {table.name: table for table in run.tables}  # they are in the order of steps
    return "".join(_table(run, newest[name], language) for _, name in tables(newest))


def _table(run: LoggedRun, table: LoggedTable, language: Tongue) -> str:
    columns, rows = table.read()
    title = escape(f"{run.label}: {table.name}, {STEP.of(language)} {table.step}")
    step = max(1, -(-len(rows) // MAX_ROWS))  # its beginning may be of one language
    return f"<h2>{title}</h2>{html.table(columns, rows[::step])}"
