"""What every reader of rows gives."""

import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from vglm_train.data.record import RecordError
from vglm_train.errors import UserError


class Row(NamedTuple):
    """A row in its file."""

    offset: int  # bytes; where the reader's unit is no byte: the row's number
    size: int
    values: dict[str, Any] | None  # None: it cannot be read
    where: str  # names the row in messages: "line 12", "row 3", "image 7", "train row 3"
    cause: str | None = None  # what is wrong with it: "json", "encoding" or "columns"
    split: str | None = None  # what the source itself says, apart from any column


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


class TableFile(RowReader, Protocol):
    """A table whose rows can be read again, each by its offset and size."""

    path: Path

    @property
    def size(self) -> int: ...

    def row(self, offset: int, size: int) -> dict[str, Any]:
        """The row there. RecordError where it cannot be read."""


class TextFile:
    """A file that is opened when it is first read, once a process."""

    unit = "B"

    def __init__(self, path: Path, encoding: str = "utf-8") -> None:
        self.path, self.encoding = path, encoding

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
            return os.pread(self.handle, size, offset).decode(self.encoding)
        except UnicodeDecodeError:
            raise RecordError("record", f"not in {self.encoding.upper()}") from None


def keys_of(rows: Iterable[dict[str, Any] | None]) -> tuple[str, ...]:
    """Every key of these rows, in order."""
    return tuple(dict.fromkeys(key for row in rows if row is not None for key in row))
