"""The report as one HTML file that needs nothing else: pictures are inside, nothing is loaded."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from vglm_train.log.jsonl import LoggedTable
from vglm_train.report import html, reference
from vglm_train.report.runs import LoggedRun
from vglm_train.report.verdict import Line, speaks

SHOWN = 16  # rows of an example table


def page(runs: Sequence[LoggedRun], verdicts: Sequence[list[Line]], curves: Path) -> str:
    """HTML with verdicts, the curves of the PNG `curves`, last values and the newest examples of each run."""
    title = "Report: " + ", ".join(run.label for run in runs)
    parts = [f"<h1>{escape(title)}</h1>", "<h2>Is the loss normal?</h2>"]
    for number, (run, lines) in enumerate(zip(runs, verdicts), 1):
        parts.append(f"<h3>{number}: {escape(run.label)}</h3><p><code>{escape(str(run.folder))}</code></p><ul>")
        parts += [f'<li class="{line.kind}">{escape(line.text)}</li>' for line in lines]
        parts.append("</ul>")
    picture = base64.b64encode(curves.read_bytes()).decode()
    parts.append("<h2>Curves</h2>")
    if any(not speaks(run) for run in runs):
        parts.append(f"<p>Black: the published curve of {escape(reference.SOURCE)}.</p>")
    parts.append(f'<div class="wide"><img class="curves" alt="curves" src="data:image/png;base64,{picture}"></div>')
    parts += ["<h2>Last values</h2>", _last_values(runs)]
    parts += [_examples(run) for run in runs]
    return html.document(title, parts)


def _last_values(runs: Sequence[LoggedRun]) -> str:
    names = sorted(set().union(*(run.names() for run in runs)))
    head = "".join(f"<th>{escape(run.label)}</th>" for run in runs)
    rows = []
    for name in names:
        values = [run.last(name) for run in runs]
        cells = "".join(f"<td>{'' if value is None else format(value, '.5g')}</td>" for value in values)
        rows.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    return f'<div class="wide"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'


def _examples(run: LoggedRun) -> str:
    """The newest table of each name."""
    newest = {table.name: table for table in run.tables}  # in order of steps
    return "".join(_table(run, table) for table in newest.values())


def _table(run: LoggedRun, table: LoggedTable) -> str:
    columns, rows = table.read()
    title = escape(f"{run.label}: {table.name}, step {table.step}")
    return f"<h2>{title}</h2>{html.table(columns, rows[:SHOWN])}"
