"""The report as one HTML page that loads nothing: verdicts, curves, last values and examples."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from vglm_train.log.jsonl import LoggedTable
from vglm_train.report import html, reference
from vglm_train.report.runs import LoggedRun
from vglm_train.report.verdict import is_stage_two

MAX_ROWS = 16  # of an example table


def render_page(runs: Sequence[LoggedRun], verdicts: Sequence[list[html.VerdictLine]], curves: Path) -> str:
    """HTML with the verdict of each run, the PNG `curves`, last values, and the newest examples of each run."""
    title = "Report: " + ", ".join(run.label for run in runs)
    parts = [f"<h1>{escape(title)}</h1>", "<h2>Is the loss normal?</h2>"]
    for number, (run, lines) in enumerate(zip(runs, verdicts), 1):
        parts.append(f"<h3>{number}: {escape(run.label)}</h3><p><code>{escape(str(run.folder))}</code></p>")
        parts.append(html.verdict(lines))
    picture = base64.b64encode(curves.read_bytes()).decode()
    parts.append("<h2>Curves</h2>")
    if any(not is_stage_two(run) for run in runs):
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
        cells = "".join(f"<td>{_last_value(run, name)}</td>" for run in runs)
        rows.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    return f'<div class="wide"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'


def _last_value(run: LoggedRun, name: str) -> str:
    value = run.last(name)
    if name not in run.names():
        return ""
    return format(value, ".5g") if value is not None and run.is_finite(name) else "not finite"


def _examples(run: LoggedRun) -> str:
    """The newest table of each name."""
    newest = {table.name: table for table in run.tables}  # they are in the order of steps
    return "".join(_table(run, table) for table in newest.values())


def _table(run: LoggedRun, table: LoggedTable) -> str:
    columns, rows = table.read()
    title = escape(f"{run.label}: {table.name}, step {table.step}")
    step = max(1, -(-len(rows) // MAX_ROWS))  # its beginning may be of one language
    return f"<h2>{title}</h2>{html.table(columns, rows[::step])}"
