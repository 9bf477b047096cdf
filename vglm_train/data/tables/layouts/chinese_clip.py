"""Chinese-CLIP's data: pictures in base64, a line each, and texts that say which pictures they are of."""

import base64
import binascii
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vglm_train.data.tables.base import Row, TextFile, unreadable
from vglm_train.data.tables.encoding import Lines
from vglm_train.data.tables.json_table import JsonTable
from vglm_train.data.tables.layouts.join import Half, JoinedTable, Values
from vglm_train.data.tables.layouts.splits import SplitTable
from vglm_train.errors import UserError

PICTURES, TEXTS = "_imgs.tsv", "_texts.jsonl"  # ends of the files' names; before them stands the split
_STANDARD = str.maketrans("-_", "+/")  # from the alphabet for addresses
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+=*")


class PictureLines(TextFile):
    """Lines of an id, a tab and a picture's bytes in base64, of either alphabet. Pictures stay in the file until a row
    is read."""

    columns = ("id", "image")

    def scan(self) -> Iterator[Row]:
        """The `image` of these rows is left out."""
        with open(self.path, "rb") as file:
            lines = Lines(file, self.encoding, "\n")
            while True:
                lines.begin()
                start, line = lines.offset, next(lines, None)
                if line is None:
                    return
                if line.strip():
                    name, tab, content = line.rstrip("\r\n").partition("\t")
                    whole = tab and _BASE64.fullmatch(content)
                    values = {"id": name.strip()} if whole else None
                    yield Row(start, lines.offset - start, values, lines.number, None if whole else "columns")

    def row(self, offset: int, size: int) -> Values:
        name, _, content = self.text(offset, size).partition("\t")
        try:
            content = content.strip().rstrip("=").translate(_STANDARD)
            data = base64.b64decode(content + "=" * (-len(content) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise unreadable("columns") from None
        return {"id": name.strip(), "image": data}


def is_picture_lines(head: str) -> bool:
    """Whether a file begins as `PictureLines` does."""
    name, tab, content = head.split("\n", 1)[0].rstrip("\r").partition("\t")
    return bool(tab) and len(content) > 100 and _BASE64.fullmatch(content) is not None and "\t" not in name


def open_pair(path: Path, join: Path | None, encoding: str | None = None) -> JoinedTable:
    """A row a picture, with its captions. `path` and `join`: pictures and texts, in either order; where the names are
    Chinese-CLIP's own, the other one is found. UserError where there is no other."""
    pictures, texts = (join, path) if path.suffix == ".jsonl" else (path, join)
    if pictures is None or texts is None:
        other = path.with_name(path.name.replace(PICTURES, TEXTS) if pictures else path.name.replace(TEXTS, PICTURES))
        if other == path or not other.is_file():
            what = "pictures without texts" if pictures else "texts without pictures"
            raise UserError(
                f"{path}: Chinese-CLIP's {what}; name the other file, ...{TEXTS if pictures else PICTURES}, as join in "
                "the source (check_table, convert: --join)."
            )
        pictures, texts = (path, other) if pictures else (other, path)
    halves = (
        Half(PictureLines(pictures, encoding), "picture", _id),
        Half(JsonTable(texts, lines=True, encoding=encoding), "text", _image_ids),
    )
    return JoinedTable(path, *halves, clip_row, several=True)


def open_folder(folder: Path, encoding: str | None = None) -> SplitTable:
    """The pairs of a folder, each a split."""
    names = sorted(path.name.removesuffix(PICTURES) for path in folder.glob(f"*{PICTURES}"))
    pairs = {name: open_pair(folder / f"{name}{PICTURES}", None, encoding) for name in names}
    return SplitTable(folder, pairs)


def clip_row(picture: Values, texts: list[Values]) -> Values:
    """The picture's row."""
    return picture | {"captions": [text.get("text") for text in texts]}


def _id(picture: Values) -> tuple[Any, ...]:
    return (picture.get("id"),)


def _image_ids(text: Values) -> tuple[Any, ...]:
    held = text.get("image_ids")
    return tuple(held) if isinstance(held, list) else (held,)
