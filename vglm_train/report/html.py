"""Building blocks of HTML pages that load nothing: style, tables, verdicts, and images within the page."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from PIL import Image

from vglm_train.log.jsonl import Cell
from vglm_train.log.tongues import Tongue

LIGHT = (
    "color-scheme: light; --ink: #222; --quiet: #666; --line: #ccc; --paper: #fff; --card: #f7f7f8; --ok: #080; "
    "--warn: #a00; --link: #1d4ed8"
)
DARK = (
    "color-scheme: dark; --ink: #e6e6ea; --quiet: #a5a5b0; --line: #44444c; --paper: #17171a; --card: #212126; "
    "--ok: #5c5; --warn: #f99; --link: #8bf"
)
COLOURS = (
    f':root {{ {LIGHT} }} :root[data-theme="dark"] {{ {DARK} }}\n'
    f'@media (prefers-color-scheme: dark) {{ :root:not([data-theme="light"]) {{ {DARK} }} }}\n'
)
STYLE = (
    COLOURS
    + """
body { font-family: sans-serif; margin: 1em auto; padding: 0 1em; max-width: 1200px; line-height: 1.4 }
body { color: var(--ink); background: var(--paper) }
h1 { font-size: 1.5em } h1, h2, h3, p, li, .case td { overflow-wrap: anywhere } ul { padding-left: 0 }
img { max-width: 100% } img.curves { width: 100%; min-width: 800px } table { border-collapse: collapse; margin: 1em 0 }
.wide { overflow-x: auto; margin: 1em 0 } .wide table { margin: 0 } .scores th + th { text-align: right }
td, th { border: 1px solid var(--line); padding: .3em .6em; text-align: left; vertical-align: top }
th small { font-weight: normal } td.number { text-align: right; white-space: nowrap } small { color: var(--quiet) }
.ok::before { content: "\\2713  "; color: var(--ok) }
.warn { color: var(--warn) } .warn::before { content: "!  "; font-weight: bold }
li { list-style: none; margin: .2em 0 }
.case { display: flex; flex-wrap: wrap; gap: 1em; border-top: 1px solid var(--line); padding: 1em 0;
align-items: flex-start }
.case .pictures { display: flex; flex-wrap: wrap; gap: .5em; max-width: 460px }
.case table { flex: 1 1 18em; margin: 0; min-width: 0 }
.case td, .case th { border: 0; font-weight: normal; white-space: pre-line }
.case th { color: var(--quiet); width: 10em } .case .aside td { color: var(--quiet); font-size: .9em }
.case img { border: 1px solid var(--line); width: 224px }
figure { display: inline-block; margin: 0 } .samples { display: flex; flex-wrap: wrap; gap: 1em }
.samples div { width: 170px; font-size: .8em } .samples img { display: block }
@media (max-width: 600px) { .case th { width: 6em } .case .pictures { max-width: 100% } }
"""
)
TABLE_IMAGE_SIDE = 160  # pixels of an image's longer side in a table


Sign = Literal["ok", "warn", "fact"]


@dataclass(frozen=True, slots=True)
class VerdictLine:
    """A sentence about a run or an evaluation: all is well, a warning, or a plain fact."""

    kind: Sign
    text: str


def document(title: str, parts: Iterable[str], language: Tongue = "en") -> str:
    """A whole page with the HTML `parts` as its body."""
    return (
        f'<!doctype html><html lang="{"zh-CN" if language == "zh" else "en"}"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def verdict(lines: Iterable[VerdictLine]) -> str:
    """A list with a sign for each kind of line."""
    return "<ul>" + "".join(f'<li class="{line.kind}">{escape(line.text)}</li>' for line in lines) + "</ul>"


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A table whose cells are texts, numbers and images."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell(value)}</td>" for value in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def cell(value: Cell) -> str:
    """HTML of one cell. Images are made small."""
    if isinstance(value, Image.Image):
        return image(value, TABLE_IMAGE_SIDE)
    return escape(f"{value:.4g}" if isinstance(value, float) else str(value))


def image(value: Image.Image, side: int) -> str:
    """An image within the page, of at most `side` pixels a side."""
    data, small = io.BytesIO(), value.convert("RGB")
    small.thumbnail((side, side))
    small.save(data, "JPEG", quality=85)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}">'
