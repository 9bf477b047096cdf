"""Tables as people have them: where each row lies in its file, found in one pass, and the row there.

No row is kept: a JSON list is walked element by element through a window of its text (what VisualGLM's and LLaVA's
scripts load whole), a CSV record by record.
"""

import csv
import json
import os
from collections.abc import Generator, Iterator
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any, BinaryIO

from vglm_train.data.record import RecordError
from vglm_train.data.tables.base import Span, TableFile
from vglm_train.data.tables.json_stream import MARK, NotJson, Window
from vglm_train.errors import MissingData, UserError

LISTS = ("annotations", "data", "rows", "samples")  # keys that hold the rows where the file is one object
LONGEST_CELL = 1 << 24  # characters of a CSV cell


class _File:
    """A file that is opened when it is first read, once a process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    @cached_property
    def handle(self) -> int:
        try:
            return os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise UserError(f"{self.path}: the table cannot be opened: {error.strerror}") from None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "handle"}

    def text(self, offset: int, size: int) -> str:
        try:
            return os.pread(self.handle, size, offset).decode("utf-8")
        except UnicodeDecodeError:
            raise RecordError("record", "not in UTF-8") from None


class JsonTable(_File):
    """A list of objects, an object that holds such a list, or one object a line."""

    def __init__(self, path: Path, lines: bool) -> None:
        super().__init__(path)
        self.lines = lines

    def scan(self) -> Iterator[Span]:
        with open(self.path, "rb") as file:
            if self.lines:
                yield from _lines(file)
                return
            window = Window(file)
            try:
                first = window.peek()
                if first == "[":
                    yield from _elements(window)
                elif first == "{" and not (yield from _object(window, self.path)):
                    file.seek(0)
                    yield from _lines(file)
                elif first not in ("[", "{"):
                    raise NotJson(f"it begins with {first!r}" if first else "it is empty", 0)
            except NotJson as error:
                raise UserError(
                    f"{self.path}: not a JSON table: {error} (byte {error.offset}). It must be a list of objects, an "
                    f"object with one under {', '.join(LISTS)}, or, named .jsonl, one object a line."
                ) from None

    def row(self, offset: int, size: int) -> dict[str, Any]:
        try:
            value = json.loads(self.text(offset, size), strict=False)
        except (ValueError, RecursionError) as error:
            raise RecordError("record", f"not JSON: {error}") from None
        if not isinstance(value, dict):
            raise RecordError("record", f"a row must be a JSON object, found {type(value).__name__}")
        return value


def _lines(file: BinaryIO) -> Iterator[Span]:
    if file.read(len(MARK)) != MARK:
        file.seek(0)
    offset = file.tell()
    for line in file:
        if line.strip():
            try:
                value = json.loads(line, strict=False)
            except (ValueError, RecursionError):
                value = None
            yield Span(offset, len(line), value if isinstance(value, dict) else None)
        offset += len(line)


def _elements(window: Window) -> Iterator[Span]:
    """The elements of the list that begins here; afterwards the window stands behind it."""
    window.take("[")
    if window.peek() == "]":
        window.take("]")
        return
    while True:
        start, value = window.value()
        yield Span(start, window.offset - start, value if isinstance(value, dict) else None)
        if window.take(",", "]") == "]":
            return


def _object(window: Window, path: Path) -> Generator[Span, None, bool]:
    """Rows under one of LISTS. Returns (as a generator does) whether there was such a list."""
    window.take("{")
    while window.peek() not in ("}", ""):
        _, key = window.value()
        window.take(":")
        if key in LISTS and window.peek() == "[":
            yield from _elements(window)
            return True
        _, value = window.value()
        if key == "images" and isinstance(value, list) and value and isinstance(value[0], dict):
            raise UserError(
                f"{path}: a COCO file, whose pictures and captions stand apart. Bring them together with "
                f"python -m data_tools.convert {path} --format coco --out records.jsonl, and give that as the table."
            )
        if window.peek() == ",":
            window.take(",")
    return False


class SeparatedTable(_File):
    """CSV with quoted cells, between commas or semicolons; TSV, never quoted. The first row names the columns."""

    def __init__(self, path: Path, delimiter: str | None) -> None:
        super().__init__(path)
        with open(path, "rb") as file:
            head = file.readline().decode("utf-8-sig", "replace")
        self.delimiter = delimiter or max(",;\t", key=head.count)
        self.quoted = delimiter != "\t"
        self.columns = [name.strip() for name in next(self._reader(iter([head])), [])]
        repeated = {name for name in self.columns if self.columns.count(name) > 1}
        if repeated:
            raise UserError(f"{path}: column {min(repeated)!r} occurs twice in the first row; rename one of them.")

    def _reader(self, lines: Iterator[str]) -> Any:
        csv.field_size_limit(LONGEST_CELL)
        if not self.quoted:
            return csv.reader(lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE)
        return csv.reader(lines, delimiter=self.delimiter)

    def scan(self) -> Iterator[Span]:
        with open(self.path, "rb") as file:
            lines = _Counted(file)
            reader = self._reader(lines)
            next(reader, None)
            while True:
                start = lines.offset
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error:
                    yield Span(start, lines.offset - start, None)
                    continue
                if cells:
                    yield Span(start, lines.offset - start, self._values(cells))

    def _values(self, cells: list[str]) -> dict[str, Any] | None:
        whole = len(cells) == len(self.columns)
        return {name: cell for name, cell in zip(self.columns, cells) if cell} if whole else None

    def row(self, offset: int, size: int) -> dict[str, Any]:
        try:
            cells: list[str] = next(self._reader(StringIO(self.text(offset, size), newline="")), [])
        except csv.Error as error:
            raise RecordError("record", f"not a row of a table: {error}") from None
        values = self._values(cells)
        if values is None:
            raise RecordError("record", f"{len(cells)} cells, but {len(self.columns)} columns")
        return values


class _Counted:
    """Lines of a file as text, and how many bytes were given out."""

    def __init__(self, file: Any) -> None:
        self.file, self.offset = file, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self.file)
        self.offset += len(line)
        return line.decode("utf-8", "surrogateescape")


def open_file(path: Path) -> TableFile:
    """The reader for a path's kind. UserError where there is none, or nothing there."""
    if path.is_dir():
        from vglm_train.data.tables.hf_dataset import SavedTable

        return SavedTable(path)
    if not path.exists():
        raise MissingData(f"{path}: no such table.")
    match path.suffix.lower():
        case ".json":
            return JsonTable(path, lines=False)
        case ".jsonl" | ".ndjson":
            return JsonTable(path, lines=True)
        case ".csv":
            return SeparatedTable(path, None)
        case ".tsv":
            return SeparatedTable(path, "\t")
    raise UserError(
        f"{path}: no table that is known: give .json, .jsonl, .csv, .tsv, or the folder of a data set that "
        "`datasets` saved. A folder of tars is given as shards."
    )
