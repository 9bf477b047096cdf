"""Tables as people have them: where each row lies in its file, found in one pass, and the row there.

No row is kept: a JSON list is walked element by element through a window of its text (what VisualGLM's and LLaVA's
scripts load whole), a CSV record by record. A new file format is a class as `base.TableFile`, an ending in `ENDINGS`,
and a case in `open_table`.
"""

import codecs
import csv
import json
from collections.abc import Generator, Iterator
from functools import cached_property
from io import StringIO, TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

from vglm_train.data.record import RecordError
from vglm_train.data.tables.base import Row, TableFile, TextFile, keys_of
from vglm_train.data.tables.coco import CocoTable, is_coco
from vglm_train.data.tables.json_stream import MARK, UNDECODED, NotJson, Window
from vglm_train.errors import MissingData, UserError

Format = Literal["json", "jsonl", "coco", "csv", "tsv"]
ENDINGS: dict[str, Format] = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
LISTS = ("annotations", "data", "rows", "samples")  # keys that hold the rows where the file is one object
LONGEST_CELL = 1 << 24  # characters of a CSV cell
FIRST = 100  # rows whose keys are a JSON file's columns


class JsonTable(TextFile):
    """A list of objects, an object that holds such a list, or one object a line."""

    def __init__(self, path: Path, lines: bool) -> None:
        super().__init__(path)
        self.lines = lines

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return keys_of(islice((row.values for row in self.scan() if row.values is not None), FIRST))

    def scan(self) -> Iterator[Row]:
        with open(self.path, "rb") as file:
            if self.lines:
                yield from _lines(file)
                return
            window = Window(file)
            try:
                first = window.peek()
                if first == "[":
                    yield from _elements(window)
                elif first == "{" and not (yield from _members(window)):
                    file.seek(0)
                    yield from _lines(file)
                elif first not in ("[", "{"):
                    raise NotJson(f"it begins with {first!r}" if first else "it is empty", 0)
            except NotJson as error:
                raise UserError(
                    f"{self.path}: not a JSON table: {error} (byte {error.offset}). It must be a list of objects, an "
                    f"object with one under {', '.join(LISTS)}, COCO's images and annotations, or, named .jsonl, one "
                    "object a line."
                ) from None

    def row(self, offset: int, size: int) -> dict[str, Any]:
        try:
            value = json.loads(self.text(offset, size), strict=False)
        except (ValueError, RecursionError) as error:
            raise RecordError("record", f"not JSON: {error}") from None
        if not isinstance(value, dict):
            raise RecordError("record", f"a row must be a JSON object, found {type(value).__name__}")
        return value


def _lines(file: BinaryIO) -> Iterator[Row]:
    offset = 0
    for number, line in enumerate(file, 1):
        text = line.removeprefix(MARK)
        if text.strip():
            value: Any = None
            cause: str | None = "json"
            try:
                value = json.loads(text.decode("utf-8"), strict=False)
            except UnicodeDecodeError:
                cause = "encoding"
            except (ValueError, RecursionError):
                pass
            yield _row(offset + len(line) - len(text), len(text), value, f"line {number}", cause)
        offset += len(line)


def _row(offset: int, size: int, value: Any, where: str, cause: str | None) -> Row:
    """Without `cause` where `value` is an object, else without a value."""
    return Row(offset, size, value, where) if isinstance(value, dict) else Row(offset, size, None, where, cause)


def _elements(window: Window) -> Iterator[Row]:
    for number, (start, value) in enumerate(window.elements()):
        row = _row(start, window.offset - start, value, f"row {number}", "json")
        yield row._replace(cause="encoding") if window.undecoded else row


def _members(window: Window) -> Generator[Row, None, bool]:
    """Rows under one of LISTS. Returns (as a generator does) whether there was such a list."""
    for key in window.object_keys():
        if key in LISTS and window.peek() == "[":
            yield from _elements(window)
            return True
    return False


class SeparatedTable(TextFile):
    """CSV with quoted cells, between commas or semicolons; TSV, never quoted.

    The first row names the columns, unless `columns` do.
    """

    def __init__(
        self, path: Path, delimiter: str | None, encoding: str = "utf-8", columns: tuple[str, ...] | None = None
    ) -> None:
        super().__init__(path, encoding)
        self.header = columns is None
        if columns is None:
            with open(path, "rb") as file:
                head = next(_Lines(file, encoding), "")
            self.delimiter = delimiter or max(",;\t", key=head.count)
            with open(path, "rb") as file:
                columns = tuple(next(self._reader(_Lines(file, encoding)), ()))
        else:
            self.delimiter = delimiter or ","
        self.columns = tuple(name.strip() for name in columns)
        if not any(self.columns):
            raise UserError(f"{path}: the file is empty; its first row must name the columns")
        repeated = {name for name in self.columns if self.columns.count(name) > 1}
        if repeated:
            raise UserError(f"{path}: column {min(repeated)!r} occurs twice in the first row; rename one of them.")

    def _reader(self, lines: Iterator[str]) -> Any:
        csv.field_size_limit(LONGEST_CELL)
        if self.delimiter == "\t":
            return csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        return csv.reader(lines, delimiter=self.delimiter)

    def scan(self) -> Iterator[Row]:
        with open(self.path, "rb") as file:
            lines = _Lines(file, self.encoding)
            reader = self._reader(lines)
            if self.header:
                next(reader, None)
            while True:
                start, lines.undecoded = lines.offset, False
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error:
                    cells = None
                if cells == []:
                    continue
                values = self._values(cells) if cells else None
                cause = "encoding" if lines.undecoded else "columns" if values is None else None
                yield Row(start, lines.offset - start, values, f"line {reader.line_num}", cause)

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


class _Lines:
    """Lines of a file as text. `offset`: the byte where the next begins (UTF-16's marks make it larger);
    `undecoded`: whether bytes of a line were not in the encoding, which become surrogates and cost their row alone.
    """

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        try:
            utf8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")
        except LookupError:
            raise UserError(f"no such encoding: {encoding}; try utf-8 or gb18030") from None
        self.encoding = "utf-8" if utf8 else encoding
        self.offset = len(MARK) if utf8 and file.read(len(MARK)) == MARK else 0
        file.seek(self.offset)
        self.text = TextIOWrapper(file, encoding=self.encoding, errors="surrogateescape", newline="")
        self.undecoded = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self.text)
        self.offset += len(line.encode(self.encoding, "surrogateescape"))
        self.undecoded |= not line.isascii() and UNDECODED.search(line) is not None
        return line


def open_table(
    path: Path, format: Format | None = None, encoding: str = "utf-8", columns: tuple[str, ...] | None = None
) -> TableFile:
    """The reader of a table in `format`; None: the one of its name. UserError where there is none, or no file.

    Of CSV and TSV, `encoding`, and the names of `columns` where the first row does not hold them.
    """
    if path.is_dir() and format is None:
        from vglm_train.data.tables.hf_dataset import SavedTable

        return SavedTable(path)
    if not path.is_file():
        raise MissingData(f"{path}: no such file; give the path of the table.")
    match format or ENDINGS.get(path.suffix.lower()):
        case "json":
            return CocoTable(path) if is_coco(path) else JsonTable(path, lines=False)
        case "jsonl":
            return JsonTable(path, lines=True)
        case "coco":
            return CocoTable(path)
        case "csv":
            return SeparatedTable(path, None, encoding, columns)
        case "tsv":
            return SeparatedTable(path, "\t", encoding, columns)
    raise UserError(
        f"{path}: no table that is known: give .json, .jsonl, .csv, .tsv, or the folder of a data set that "
        "`datasets` saved. A folder of tars is given as shards."
    )
