"""In which encoding a text file is, told from its bytes, and its lines with the byte where each begins."""

import codecs
import logging
import re
from collections import deque
from collections.abc import Iterator
from functools import cache
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO, NamedTuple

from vglm_train.errors import UserError

SAMPLE = 1 << 18  # bytes of a file that its encoding is told from
KEPT_BYTES = "vglm_train.kept_bytes"  # how bytes that are not in the encoding are decoded: each to a sign of its own
UNDECODED = re.compile("[\udc00-\udcff]")  # these signs; `surrogateescape` has none for bytes below 128
MARKS = (  # byte-order marks, the longer ones first
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip
STATEFUL = ("iso2022", "hz", "utf-7", "unicode-escape", "raw-unicode-escape", "punycode", "idna")
COMMON = frozenset(  # signs of which every Chinese text has some
    "的一是不了在有人这个上中大来我到说们为子和你地出道也时年得就那要下以生会着去之过家可她里后么多然没于起还成只作看无手用"
    "主行方如前所本见面同三已老从动两长样分外但身些与高进把此二点明名定女几很间白黑红绿色图片男站坐拿着正常未左右双部"
    "這個為來時說們會後開長兩無見"
    "，。、？！：；（）"
)
CHINESE = re.compile("[\u3000-\u303f\u3400-\u4dbf\u4e00-\u9fff\uff00-\uffef“”‘’—…·℃×±μα-ωΑ-Ω①-⑩Ⅰ-Ⅻ]")
ENCODING = "set encoding (--encoding) to its own"

logger = logging.getLogger(__name__)


def _keep_bytes(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(KEPT_BYTES, _keep_bytes)


class Encoding(NamedTuple):
    """How the bytes of a file are text."""

    name: str
    mark: int = 0  # bytes of its byte-order mark

    def size(self, text: str) -> int:
        """Bytes that `text` was read from."""
        if text.isascii():
            return len(text) * (2 if self.name.startswith("utf-16") else 4 if self.name.startswith("utf-32") else 1)
        decoded = UNDECODED.sub("", text)
        return len(decoded.encode(self.name, "replace")) + len(text) - len(decoded)


UTF8 = Encoding("utf-8")


def find_encoding(path: Path, head: bytes, name: str | None) -> Encoding:
    """The encoding of a file that begins with `head`. `name`: the one that a person gives.

    Without it: what a byte-order mark says, UTF-16 by its zero bytes, UTF-8, or GB18030 where the bytes are Chinese
    text in it. What is none of these counts as UTF-8 with damaged rows. UserError where `name` is no encoding that can
    be read from the middle of a file.
    """
    mark, marked = next(((mark, found) for mark, found in MARKS if head.startswith(mark)), (b"", None))
    if name is not None:
        given = _checked(name)
        if given in ("utf-16", "utf-32"):
            given = marked if marked and marked.startswith(given) else f"{given}-{_endianness(head)}"
        return Encoding(given, len(mark) if given == marked else 0)
    if marked is not None:
        return Encoding(marked, len(mark))
    if (wide := _unmarked_utf16(head)) is not None:
        return _reported(path, wide)
    return UTF8 if _is_utf8(head) or not _is_chinese(head) else _reported(path, "gb18030")


@cache  # once, however often a file is opened
def _reported(path: Path, name: str) -> Encoding:
    logger.warning("%s: not in UTF-8, read as %s; if that is wrong, %s", path, name, ENCODING)
    return Encoding(name)


def _checked(name: str) -> str:
    """Python's own name of an encoding."""
    try:
        known = codecs.lookup(name).name
        "a".encode(known)  # LookupError: it encodes no text
    except (LookupError, ValueError):
        raise UserError(f"no such encoding: {name}; try utf-8, gb18030, big5, utf-16 or cp1252") from None
    if known.replace("_", "-").startswith(STATEFUL):
        raise UserError(
            f"encoding {name}: what a byte means depends on those before it, so that no row can be read by itself; "
            f"convert the file first: iconv -f {name} -t utf-8 FILE > NEW"
        )
    return "utf-8" if known == "utf-8-sig" else known


def _endianness(head: bytes) -> str:
    return "be" if head[:512:2].count(0) > head[1:512:2].count(0) else "le"


def _unmarked_utf16(head: bytes) -> str | None:
    """UTF-16 without a mark: the ASCII in it has a zero in every other byte, always on the same side."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    if not even + odd or max(even, odd) * 8 < len(head) // 2 or min(even, odd) * 20 > max(even, odd):
        return None
    name = "utf-16-be" if even > odd else "utf-16-le"
    return name if _decodes(head, name) else None


def _is_utf8(head: bytes) -> bool:
    """Also where most lines that are not ASCII are in UTF-8: the others are damaged."""
    if _decodes(head, "utf-8"):
        return True
    lines = [line for line in head.split(b"\n")[:-1] or [head] if not line.isascii()]
    return 2 * sum(_decodes(line, "utf-8") for line in lines) > len(lines)


def _is_chinese(head: bytes) -> bool:
    """Whether the bytes are GB18030, and say something in it: other encodings decode too, to rare signs."""
    if not _decodes(head, "gb18030"):
        return False
    text = codecs.getincrementaldecoder("gb18030")("ignore").decode(head)
    signs = [character for character in text if not character.isascii()]
    chinese = sum(CHINESE.match(character) is not None for character in signs)
    common = sum(character in COMMON for character in signs)
    return chinese >= 0.95 * len(signs) and common >= 0.1 * len(signs) > 0


def _decodes(head: bytes, name: str) -> bool:
    """A character may be cut at the end."""
    try:
        codecs.getincrementaldecoder(name)().decode(head, final=False)
    except UnicodeDecodeError:
        return False
    return True


class Lines:
    """Lines of a file as text. `offset`: the byte where the next begins; `number`: of the last, from 1; `taken`: those
    since `begin`. Bytes that are not in the encoding become UNDECODED signs, so that they cost their row alone.
    """

    def __init__(self, file: BinaryIO, encoding: Encoding, newline: str = "") -> None:
        """`newline`: as of `open`; empty: any of the three usual ends."""
        self.encoding = encoding
        self.offset, self.number = encoding.mark, 0
        file.seek(self.offset)
        self.text = TextIOWrapper(file, encoding=encoding.name, errors=KEPT_BYTES, newline=newline)
        self.taken: list[str] = []
        self._returned: deque[str] = deque()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._returned.popleft() if self._returned else next(self.text)
        self.taken.append(line)
        self.offset += self.encoding.size(line)
        self.number += 1
        return line

    def begin(self) -> None:
        self.taken = []

    def keep_first(self) -> None:
        """Give back all lines but the first of those that were taken."""
        self._returned.extendleft(reversed(self.taken[1:]))
        self.offset -= sum(map(self.encoding.size, self.taken[1:]))
        self.number -= len(self.taken) - 1
        del self.taken[1:]

    @property
    def undecoded(self) -> bool:
        """Whether bytes of the lines taken were not in the encoding."""
        return any(not line.isascii() and UNDECODED.search(line) is not None for line in self.taken)
