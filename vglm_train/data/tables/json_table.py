"""JSON files as tables: an element of a list, an object, or a line of JSONL is a row."""

import json
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from vglm_train.data.record import RecordError, kind_of
from vglm_train.data.tables.base import Row, TextFile, keys_of, unreadable
from vglm_train.data.tables.encoding import Lines
from vglm_train.data.tables.json_shape import LISTS, JsonShape, find_shape, row_of, without_comma
from vglm_train.data.tables.json_stream import NotJson, Window
from vglm_train.errors import UserError

FIRST = 100  # rows whose keys are a JSON file's columns


class JsonTable(TextFile):
    """Rows wherever `JsonShape` finds them. Those of a list under the name of a split have it as their `split`."""

    def __init__(
        self, path: Path, lines: bool = False, encoding: str | None = None, shape: JsonShape | None = None
    ) -> None:
        """`lines`: the name says one object a line; `shape`: None where the file tells it. UserError where it is no
        JSON table."""
        super().__init__(path, encoding)
        try:
            self.shape: JsonShape = shape or find_shape(path, self.encoding, self.head, lines)
        except NotJson as error:
            raise not_json(path, error) from None
        self.newline = "\r" if "\r" in self.head and "\n" not in self.head else "\n"

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return keys_of(islice((row.values for row in self.scan() if row.values is not None), FIRST))

    def scan(self) -> Iterator[Row]:
        with open(self.path, "rb") as file:
            if self.shape.kind == "lines":
                yield from self._lines(file)
                return
            window = Window(file, self.encoding)
            try:
                yield from self._rows(window)
            except NotJson as error:
                raise not_json(self.path, error) from None

    def row(self, offset: int, size: int) -> dict[str, Any]:
        text = self.text(offset, size)
        try:
            value = json.loads("{" + text + "}" if self.shape.kind == "keyed" else text, strict=False)
        except json.JSONDecodeError as error:
            raise unreadable("json", error.msg) from None
        except (ValueError, RecursionError) as error:
            raise unreadable("json", str(error)) from None
        row = row_of(*value.popitem()) if self.shape.kind == "keyed" else value
        if not isinstance(row, dict):
            raise unreadable("json", f"found {kind_of(value)}")
        return self._with_split(row, offset)

    def _rows(self, window: Window) -> Iterator[Row]:
        """Rows of every shape but lines."""
        self._enter(window)
        match self.shape.kind:
            case "list":
                yield from self._elements(window)
                if found := window.peek():
                    raise NotJson(f"expected the end of the file behind the list, found {found}", window.offset)
            case "objects":
                for number, (start, value) in enumerate(window.values(), 1):
                    yield self._row(window, start, value, number)
            case "keyed":
                yield from self._keyed(window)
            case "splits":
                yield from self._split_rows(window)
            case _:
                for _, key in window.object_keys():
                    if key == self.shape.key and window.peek() == "[":
                        yield from self._elements(window)
                        return

    def _enter(self, window: Window) -> None:
        """Step into the object that the rows are in."""
        for name in self.shape.inside:
            next(key for _, key in window.object_keys() if key == name)

    def _elements(self, window: Window) -> Iterator[Row]:
        for number, (start, value) in enumerate(window.elements(), 1):
            yield self._row(window, start, value, number)

    def _keyed(self, window: Window) -> Iterator[Row]:
        for number, (begin, key) in enumerate(window.object_keys(), 1):
            undecoded = window.undecoded
            _, value = window.value()
            row = self._row(window, begin, row_of(key, value), number)
            yield row._replace(values=None, cause="encoding") if undecoded else row

    def _split_rows(self, window: Window) -> Iterator[Row]:
        names = {name for _, name in self.sections}
        for _, key in window.object_keys():
            if key in names and window.peek() == "[":
                yield from self._elements(window)

    @cached_property
    def sections(self) -> list[tuple[int, str]]:
        """Of `splits`: the byte where each list of objects begins, and its name; one pass over the file."""
        found: list[tuple[int, str]] = []
        if self.shape.kind != "splits":
            return found
        with open(self.path, "rb") as file:
            window = Window(file, self.encoding)
            self._enter(window)
            for _, key in window.object_keys():
                if window.peek() != "[" or key not in (self.shape.names or (key,)):
                    continue
                start, elements = window.offset, window.elements()
                if isinstance(next(elements, (0, {}))[1], dict):
                    found.append((start, key))
                deque(elements, maxlen=0)
        return found

    def _row(self, window: Window, start: int, value: Any, number: int) -> Row:
        size = window.offset - start
        if window.undecoded or not isinstance(value, dict):
            return Row(start, size, None, number, "encoding" if window.undecoded else "json")
        return Row(start, size, self._with_split(value, start), number)

    def _with_split(self, row: dict[str, Any], offset: int) -> dict[str, Any]:
        if not self.sections:
            return row
        return row | {"split": self._section(offset)}

    def _section(self, offset: int) -> str:
        """The name of the list that a row stands in."""
        return self.sections[bisect_right(self.sections, (offset,)) - 1][1]

    def where(self, offset: int, size: int, number: int) -> str:
        match self.shape.kind:
            case "lines":
                return f"line {number}"
            case "splits":
                return f"{self._section(offset)} row {number}"
            case "keyed":
                with suppress(RecordError, ValueError):
                    return f"row {json.JSONDecoder(strict=False).raw_decode(self.text(offset, size))[0]!r}"
        return f"row {number}"

    def _lines(self, file: BinaryIO) -> Iterator[Row]:
        lines = Lines(file, self.encoding, self.newline)
        while True:
            lines.begin()
            start, line = lines.offset, next(lines, None)
            if line is None:
                return
            body = line.removeprefix("\ufeff")
            if text := without_comma(body):
                yield self._line(start + self.encoding.size(line) - self.encoding.size(body), text, lines)

    def _line(self, start: int, text: str, lines: Lines) -> Row:
        size, number = self.encoding.size(text), lines.number
        if lines.undecoded:
            return Row(start, size, None, number, "encoding")
        try:
            value = json.loads(text, strict=False)
        except (ValueError, RecursionError):
            return Row(start, size, None, number, "json")
        return Row(start, size, value, number) if isinstance(value, dict) else Row(start, size, None, number, "json")


def not_json(path: Path, error: NotJson) -> UserError:
    """The error of a file that is no JSON table: where, why, and what one is."""
    with open(path, "rb") as file:
        line = file.read(error.offset).count(b"\n") + 1
    return UserError(
        f"{path}: not a JSON table: {error} (line {line}, byte {error.offset}). It must be a list of objects, an "
        f"object with one under {', '.join(LISTS)} or under names of splits, COCO's images and annotations, rows under "
        "their ids, or one object a line."
    )
