"""Pieces of a page that needs nothing else: pictures are inside, nothing is loaded."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from PIL import Image

from vglm_train.log.rows import Cell

STYLE = """
body { font-family: sans-serif; margin: 2em auto; max-width: 1200px; line-height: 1.4; color: #222 }
img.curves { width: 100% } table { border-collapse: collapse; margin: 1em 0 }
td, th { border: 1px solid #ccc; padding: .3em .6em; text-align: left; vertical-align: top }
td.number { text-align: right; white-space: nowrap } small { color: #666 }
.ok::before { content: "\\2713  "; color: #080 }
.warn { color: #a00 } .warn::before { content: "!  "; font-weight: bold }
li { list-style: none }
"""
SIDE = 160  # pixels of a picture's longer side


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page of HTML `parts`."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Texts, numbers and pictures."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell(value)}</td>" for value in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def cell(value: Cell) -> str:
    """What stands in a table's cell; pictures are made small."""
    if isinstance(value, Image.Image):
        data, small = io.BytesIO(), value.convert("RGB")
        small.thumbnail((SIDE, SIDE))
        small.save(data, "JPEG", quality=85)
        return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}">'
    return escape(f"{value:.4g}" if isinstance(value, float) else str(value))
