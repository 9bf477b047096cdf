"""What the generated pages share."""

import re
from collections.abc import Iterator, Sequence

MADE = "<!-- made by `make reference` of the code; edit there -->"


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    """A Markdown table; bars within cells are written as such."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in line) + " |" for line in lines)
