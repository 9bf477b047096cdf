"""Pictures beside their texts as one HTML page, whose letters the browser draws."""

from collections.abc import Iterator, Sequence
from html import escape

from data_tools.preview.sheet import Cell, enlarge
from vglm_train.report import html

SIDE = 728  # pixels of the longer side that a sample's pictures are shown with at most


def render_page(title: str, cells: Sequence[Cell], notes: Sequence[str]) -> str:
    """A card for each sample: its pictures, where it is, and its lines, "name: text" each. `notes` stand at the top."""
    marks = [html.VerdictLine("warn" if note.startswith("warning") else "fact", note) for note in notes]
    return html.document(title, [f"<h1>{escape(title)}</h1>", html.verdict(marks), *map(_card, cells)])


def _card(cell: Cell) -> str:
    picture = html.image(enlarge(cell.picture), SIDE)
    return f'<div class="case"><div class="pictures">{picture}</div><table>{"".join(_rows(cell.lines))}</table></div>'


def _rows(lines: Sequence[str]) -> Iterator[str]:
    """The first line says where the sample is."""
    for number, line in enumerate(lines):
        name, colon, text = line.partition(": ")
        name, text = (name, text) if number and colon else ("where" if number == 0 else "", line)
        style = "aside" if number == 0 or name in ("ids", "tokens") else "main"
        yield f'<tr class="{style}"><th>{escape(name)}</th><td>{escape(text)}</td></tr>'
