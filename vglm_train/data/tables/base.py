"""What every reader of rows gives, and how a row is named to people.

Every message, log and result names a row by where a person finds it, from 1: `line 12` of a text whose rows are lines
(CSV, TSV, JSONL: the line in which the row begins, that of the columns counted), `row 12` of a list, of a Parquet file
or of what `datasets` saved, `row 'ID'` of rows that stand under their ids; before it stands the list's name where a
file holds several (`train row 12`, `annotation row 12`). Of a tar it is the tar with the key. `RowReader.where` alone
makes these names.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from vglm_train.data.record import RecordError
from vglm_train.data.tables.encoding import ENCODING, SAMPLE, Encoding, find_encoding
from vglm_train.data.tables.file_kinds import refuse_other_files
from vglm_train.errors import UserError
from vglm_train.files import open_binary, read_at

CAUSES = {
    "json": "not a JSON object",
    "encoding": f"not in the encoding that the file is read in; {ENCODING}, for instance gb18030",
    "columns": "the number of its cells is not that of the columns",
    "quote": "a quote that is opened and not closed, or text behind a closing quote",
    "partner": "its other half is not there",
    "id": "its id is that of an earlier row",
    "truncated": "the file ends within it, or goes on with something that cannot be read",
    "doubt": "several samples have this key, with unequal members: which belong together cannot be told",
    "link": "a member is a link that leads out of the tar, or is stored with holes",
}
"""What is wrong with a row that cannot be read, by the cause that it is counted under."""


class Row(NamedTuple):
    """A row in its file."""

    offset: int  # bytes; where the reader's unit is no byte: the row's number
    size: int
    values: dict[str, Any] | None  # None: it cannot be read
    number: int  # from 1: of the line in which it begins, where rows are lines; else of the row in its list
    cause: str | None = None  # what is wrong with it: a key of CAUSES


def unreadable(cause: str, detail: str = "") -> RecordError:
    """The error of a row that cannot be read, by a key of CAUSES; `detail`: what is special about this row."""
    return RecordError("record", f"{CAUSES[cause]}: {detail}" if detail else CAUSES[cause])


class RowReader(Protocol):
    """Rows as a stream."""

    unit: str  # of offsets, sizes and `size`, for a progress bar: "B", "row", "image"

    @property
    def size(self) -> int | None:
        """None: it cannot be known."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names under which rows have values, known before all rows are read."""

    def scan(self) -> Iterator[Row]:
        """Every row in order. UserError where the file is no table."""

    def where(self, offset: int, size: int, number: int) -> str:
        """How a row that was scanned is named to people, by those fields of its Row."""


class TableFile(RowReader, Protocol):
    """A table whose rows can be read again, each by its offset and size."""

    path: Path

    @property
    def size(self) -> int: ...

    @property
    def identity(self) -> str:
        """All that its rows depend on besides the content of `path`: how it is read, and the state of other files."""

    def row(self, offset: int, size: int) -> dict[str, Any]:
        """The row there. RecordError where it cannot be read."""


class TextFile:
    """A text file that is opened when it is first read, once a process."""

    unit = "B"

    def __init__(self, path: Path, encoding: str | None = None) -> None:
        """`encoding`: None where the file tells it. UserError where it cannot be read, or is no text."""
        self.path = path
        try:
            with open(path, "rb") as file:
                head = file.read(SAMPLE)
        except OSError as error:
            raise UserError(f"{path}: the table cannot be read: {error.strerror}") from None
        refuse_other_files(path, head)
        self.encoding: Encoding = find_encoding(path, head, encoding)
        self.head = head[self.encoding.mark :].decode(self.encoding.name, "replace")

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    @property
    def identity(self) -> str:
        return f"{type(self).__name__} {self.encoding.name}"

    def where(self, offset: int, size: int, number: int) -> str:
        return f"line {number}"

    @cached_property
    def handle(self) -> int:
        try:
            return open_binary(self.path)
        except OSError as error:
            raise UserError(f"{self.path}: the table cannot be opened: {error.strerror}") from None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("handle", "head")}

    def text(self, offset: int, size: int) -> str:
        """RecordError where the bytes are not in the encoding."""
        try:
            return read_at(self.handle, size, offset).decode(self.encoding.name)
        except UnicodeDecodeError:
            raise unreadable("encoding", f"it is read in {self.encoding.name.upper()}") from None


def keys_of(rows: Iterable[dict[str, Any] | None]) -> tuple[str, ...]:
    """Every key of these rows, in order."""
    return tuple(dict.fromkeys(key for row in rows if row is not None for key in row))


def state_of(path: Path) -> str:
    """What changes when a file does."""
    state = path.stat()
    return f"{path.resolve()} {state.st_size} {state.st_mtime_ns}"


def name_row(reader: RowReader, row: Row) -> str:
    """`RowReader.where` of a row."""
    return reader.where(row.offset, row.size, row.number)


def sample_key(path: Path, where: str) -> str:
    """The key of a table's row among the samples of a run: the table's name and `RowReader.where`."""
    return f"{path.stem} {where}"


def describe_causes(reader: RowReader, rows: Sequence[Row]) -> str:
    """What is wrong with rows that cannot be read, for the end of a message."""
    counts = Counter(row.cause for row in rows if row.cause is not None)
    first = {row.cause: name_row(reader, row) for row in reversed(rows)}
    found = [f"{count} x {CAUSES[cause]} (first {first[cause]})" for cause, count in counts.most_common()]
    return f": {'; '.join(found)}" if found else ""
