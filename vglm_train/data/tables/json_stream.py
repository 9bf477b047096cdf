"""A JSON text read through a window, value by value, with the byte where each begins."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from vglm_train.data.tables.encoding import KEPT_BYTES, UNDECODED, UTF8, Encoding

CHUNK = 1 << 20  # bytes
ESCAPE = 16  # characters of what may be cut at the window's end: a pair of \\u escapes, a number, a name
_BLANK = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder(strict=False)  # people's texts hold raw tabs and line ends


class NotJson(Exception):  # noqa: N818  (an observation)
    """`offset`: the byte where it stopped being JSON."""

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(reason)
        self.offset = offset


class Window:
    """Holds the part of a file that the current value needs, and forgets what is behind it.

    Bytes that are not in the encoding become UNDECODED signs, so that they cost their row alone; `undecoded` says so
    of the last value.
    """

    def __init__(self, file: BinaryIO, encoding: Encoding = UTF8) -> None:
        self.file, self.encoding = file, encoding
        self.decode = codecs.getincrementaldecoder(encoding.name)(KEPT_BYTES).decode
        self.text, self.index, self.ended, self.chunk = "", 0, False, CHUNK
        self.undecoded = False
        self.offset = encoding.mark
        file.seek(self.offset)

    def peek(self) -> str:
        """The next character that is not blank; empty at the end of the file."""
        while True:
            character = self.text[self.index : self.index + 1]
            if character and character not in " \t\r\n":
                return character
            found = _BLANK.match(self.text, self.index)
            assert found is not None
            self.offset += self.encoding.size(found[0])
            self.index = found.end()
            if self.index == len(self.text) and not self._more():
                return ""

    def take(self, *expected: str) -> str:
        """Step over the next character, which must be one of those. NotJson else."""
        found = self.peek()
        if found not in expected:
            wanted = " or ".join(expected)
            raise NotJson(f"expected {wanted}, found {found or 'the end of the file'}", self.offset)
        self.index += 1
        self.offset += self.encoding.size(found)
        return found

    def value(self) -> tuple[int, Any]:
        """The byte where the next value begins, and the value, stepped over. NotJson where there is none."""
        self.peek()
        start = self.offset
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.index)
            except (ValueError, RecursionError) as error:
                if self._is_wrong(error) or not self._more():
                    raise NotJson(_reason(error), start + self._before(error)) from None
                continue
            if end == len(self.text) and self._more():  # a number may go on
                continue
            self.chunk = CHUNK
            self._advance(end)
            return start, value

    def elements(self) -> Iterator[tuple[int, Any]]:
        """`value` of each element of the list that begins here; a comma may follow the last."""
        self.take("[")
        while self.peek() != "]":
            yield self.value()
            if self.take(",", "]") == "]":
                return
        self.take("]")

    def values(self) -> Iterator[tuple[int, Any]]:
        """`value` of each value up to the end of the file; commas may stand between them."""
        while self.peek():
            if self.peek() == ",":
                self.take(",")
            else:
                yield self.value()

    def object_keys(self) -> Iterator[tuple[int, str]]:
        """The keys of the object that begins here, each with the byte where it begins and the window before its value.

        Whoever wants the value steps over it before the next key; else it is skipped.
        """
        self.take("{")
        while self.peek() != "}":
            begin, key = self.value()
            if not isinstance(key, str):
                raise NotJson(f"expected a key in quotes, found {json.dumps(key)[:20]}", begin)
            self.take(":")
            self.peek()
            start = self.offset
            yield begin, key
            if self.offset == start:
                self.value()
            if self.peek() != "}":
                self.take(",")
        self.take("}")

    def _is_wrong(self, error: Exception) -> bool:
        """Whether more text cannot mend it: it went wrong before the window's end."""
        if not isinstance(error, json.JSONDecodeError) or error.msg.startswith("Unterminated"):
            return isinstance(error, RecursionError)
        return error.pos < len(self.text) - ESCAPE

    def _before(self, error: Exception) -> int:
        """Bytes of the value that were read before the error."""
        return self.encoding.size(self.text[self.index : getattr(error, "pos", self.index)])

    def _advance(self, end: int) -> None:
        part = self.text[self.index : end]
        self.undecoded = not part.isascii() and UNDECODED.search(part) is not None
        self.offset += self.encoding.size(part)
        self.index = end

    def _more(self) -> bool:
        """Read on; twice as much each time that a value was not whole yet, so that a long one is not parsed often."""
        if self.ended:
            return False
        data = self.file.read(self.chunk)
        self.chunk *= 2
        self.ended = not data
        self.text, self.index = self.text[self.index :] + self.decode(data, final=self.ended), 0
        return True


def _reason(error: Exception) -> str:
    """What is wrong with a JSON text, in words for the mistakes that people make."""
    if isinstance(error, RecursionError):
        return "lists within lists, too deep to be data"
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    before, rest = error.doc[: error.pos].rstrip(), error.doc[error.pos :].lstrip()
    if not rest:
        return "the file ends within a value"
    if before.endswith(",") and rest[0] in "}]":
        return f"a comma before the closing {rest[0]}"
    if rest[0] == "'":
        return "single quotes, as Python prints them; JSON has double ones (json.dump writes them)"
    return error.msg
