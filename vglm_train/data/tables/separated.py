"""CSV, TSV and their kin as tables."""

import csv
from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from vglm_train.data.tables.base import Row, TextFile, unreadable
from vglm_train.data.tables.encoding import Lines
from vglm_train.data.tables.image_paths import ENDINGS
from vglm_train.errors import UserError

DELIMITERS = (",", "\t", ";", "|")
LONGEST_CELL = 1 << 24  # characters
LONGEST_QUOTED = 1 << 20  # characters of several lines that one quoted cell may hold
TRIED = 20  # lines that the delimiter is told from
HEADER = "name the columns: columns: [image, caption] in the source (check_table, convert: --columns image,caption)"


class SeparatedTable(TextFile):
    """Rows of cells between delimiters. Cells between tabs are never quoted, nor are those of Flickr30k's `a| b| c`;
    in all others a quoted cell may hold delimiters and line ends. The first row names the columns, unless `columns` do.
    """

    def __init__(
        self,
        path: Path,
        delimiter: str | None = None,
        encoding: str | None = None,
        columns: tuple[str, ...] | None = None,
    ) -> None:
        """`delimiter`: None where the file tells it. UserError where it is no table."""
        super().__init__(path, encoding)
        lines = [line for line in StringIO(self.head, newline="") if line.strip()][:TRIED]
        first = lines[0] if lines else ""
        self.delimiter = delimiter or _find_delimiter(lines)
        self.spaced = 0 < first.count(self.delimiter) == first.count(f"{self.delimiter} ") and self.delimiter != "\t"
        self.quoted = self.delimiter != "\t" and not (self.delimiter == "|" and self.spaced)
        self.header = columns is None
        if columns is None:
            columns = _header(path, self._reader(lines))
        self.names = columns
        self.columns = tuple(name for name in columns if name)

    @property
    def identity(self) -> str:
        return f"{super().identity} {self.delimiter!r} {self.header} {self.names}"

    def scan(self) -> Iterator[Row]:
        with open(self.path, "rb") as file:
            lines = Lines(file, self.encoding)
            header = self.header
            while True:
                lines.begin()
                start = lines.offset
                cells, cause = self._next(lines)
                if not lines.taken:
                    return
                if header or not cells:
                    header &= not any(map(str.strip, cells))
                    continue
                cause = "encoding" if lines.undecoded else cause
                values = self._values(cells) if cause is None else None
                yield Row(start, lines.offset - start, values, lines.number - len(lines.taken) + 1, cause)

    def row(self, offset: int, size: int) -> dict[str, Any]:
        try:
            cells: list[str] = next(self._reader(StringIO(self.text(offset, size), newline="")), [])
        except csv.Error:
            raise unreadable("quote") from None
        if not self._fits(cells):
            raise unreadable("columns", f"{len(cells)} cells, {len(self.names)} columns")
        return self._values(cells)

    def _next(self, lines: Lines) -> tuple[list[str], str | None]:
        """Cells of the next row, which may be of several lines, or what is wrong with it: then it is one line."""
        try:
            cells: list[str] = next(self._reader(_bounded(lines)), [])
        except csv.Error:
            cells, cause = [""], "quote"
        else:
            cause = "" if not cells or self._fits(cells) else "columns"
        if cause and len(lines.taken) > 1:
            lines.keep_first()
            cause = "quote"
        return cells, cause or None

    def _reader(self, lines: Iterable[str]) -> Iterator[list[str]]:
        csv.field_size_limit(LONGEST_CELL)
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
            skipinitialspace=self.spaced,
            strict=True,
        )

    def _fits(self, cells: list[str]) -> bool:
        """A row may end in delimiters with nothing behind them."""
        return len(cells) >= len(self.names) and not any(cells[len(self.names) :])

    def _values(self, cells: list[str]) -> dict[str, Any]:
        kept = (cell.strip() for cell in cells) if self.spaced else cells
        return {name: cell for name, cell in zip(self.names, kept) if name and cell}


def _bounded(lines: Lines) -> Iterator[str]:
    """Lines until a quote that was never closed would swallow the file."""
    length = 0
    for line in lines:
        yield line
        length += len(line)
        if length > LONGEST_QUOTED:
            return


def _find_delimiter(lines: list[str]) -> str:
    """The one that cuts these lines into as many cells as the first."""
    present = [delimiter for delimiter in DELIMITERS if lines and delimiter in lines[0]]
    return max(present, key=lambda delimiter: _regularity(lines, delimiter), default=",")


def _regularity(lines: list[str], delimiter: str) -> tuple[float, int]:
    counts: list[int] = []
    try:
        reader = csv.reader(
            lines, delimiter=delimiter, quoting=csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
        )
        for cells in reader:
            counts.append(len(cells))
    except csv.Error:
        pass
    return (sum(count == counts[0] for count in counts) / len(counts), counts[0]) if counts else (0.0, 0)


def _header(path: Path, rows: Iterator[list[str]]) -> tuple[str, ...]:
    """The names of the columns; empty ones are of columns that are not read. UserError where the first row has none."""
    try:
        columns = tuple(name.strip() for name in next(rows, ()))
    except csv.Error:
        raise UserError(f"{path}: the quotes in the first row, which must name the columns, do not close") from None
    if not any(columns):
        raise UserError(f"{path}: the file is empty; its first row must name the columns")
    named = [name for name in columns if name]
    repeated = {name for name in named if named.count(name) > 1}
    if repeated:
        raise UserError(f"{path}: column {min(repeated)!r} occurs twice in the first row; rename one of them.")
    data = next((n for n in named if n.lower().endswith(ENDINGS) or n.startswith(("http://", "https://"))), None)
    if data is not None:
        raise UserError(f"{path}: the first row has {data[:80]!r}, which is no name of a column; {HEADER}.")
    return columns
