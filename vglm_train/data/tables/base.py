"""What every reader of a table gives."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol


class Span(NamedTuple):
    """A row in its file."""

    offset: int  # bytes; of a saved data set: the row's number
    size: int
    values: dict[str, Any] | None  # None: it cannot be read


class TableFile(Protocol):
    """A table whose rows can be read again by their place."""

    path: Path

    @property
    def size(self) -> int:
        """In the unit of offsets, for a progress bar."""

    def scan(self) -> Iterator[Span]:
        """Every row, as a stream. UserError where the file is no table."""

    def row(self, offset: int, size: int) -> dict[str, Any]:
        """The row there. RecordError where it cannot be read."""
