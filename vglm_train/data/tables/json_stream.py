"""A JSON text read through a window, value by value, with the byte where each begins."""

import codecs
import json
import re
from typing import Any, BinaryIO

CHUNK = 1 << 20  # bytes
ESCAPE = 16  # characters of what may be cut at the window's end: a pair of \\u escapes, a number, a name
_BLANK = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder(strict=False)  # people's texts hold raw tabs and line ends
MARK = b"\xef\xbb\xbf"  # some editors put it before UTF-8


class NotJson(Exception):  # noqa: N818  (says what was found)
    """`offset`: the byte where it stopped being JSON."""

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(reason)
        self.offset = offset


class Window:
    """Holds the part of a file that the value read now needs; what is behind is forgotten.

    Bytes that are no UTF-8 become surrogates, so that they cost their row alone.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self.text, self.place, self.ended, self.chunk = "", 0, False, CHUNK
        self.offset = len(MARK) if file.read(len(MARK)) == MARK else 0
        file.seek(self.offset)

    def peek(self) -> str:
        """The next character that is not blank; empty at the end of the file."""
        while True:
            character = self.text[self.place : self.place + 1]
            if character and character not in " \t\r\n":
                return character
            found = _BLANK.match(self.text, self.place)
            assert found is not None
            self.offset += found.end() - self.place
            self.place = found.end()
            if self.place == len(self.text) and not self._more():
                return ""

    def take(self, *expected: str) -> str:
        """Step over the next character, which must be one of those. NotJson else."""
        found = self.peek()
        if found not in expected:
            wanted = " or ".join(expected)
            raise NotJson(f"expected {wanted}, found {found or 'the end of the file'}", self.offset)
        self.place += 1
        self.offset += 1
        return found

    def value(self) -> tuple[int, Any]:
        """The byte where the next value begins, and the value, stepped over. NotJson where there is none."""
        self.peek()
        start = self.offset
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.place)
            except (ValueError, RecursionError) as error:
                if self._is_wrong(error) or not self._more():
                    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                    raise NotJson(reason, self.offset + getattr(error, "pos", self.place) - self.place) from None
                continue
            if end == len(self.text) and self._more():  # a number may go on
                continue
            self.chunk = CHUNK
            self._advance(end)
            return start, value

    def _is_wrong(self, error: Exception) -> bool:
        """Whether more text cannot mend it: it went wrong before the window's end."""
        if not isinstance(error, json.JSONDecodeError) or error.msg.startswith("Unterminated"):
            return isinstance(error, RecursionError)
        return error.pos < len(self.text) - ESCAPE

    def _advance(self, end: int) -> None:
        part = self.text[self.place : end]
        self.offset += len(part) if part.isascii() else len(part.encode("utf-8", "surrogateescape"))
        self.place = end

    def _more(self) -> bool:
        """Read on; twice as much each time that a value was not whole yet, so that a long one is not parsed often."""
        if self.ended:
            return False
        data = self.file.read(self.chunk)
        self.chunk *= 2
        self.ended = not data
        self.text, self.place = self.text[self.place :] + self.decode(data, final=self.ended), 0
        return True
