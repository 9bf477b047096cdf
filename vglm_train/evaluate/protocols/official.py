"""A benchmark's own files: which rows belong to the protocol, what each says as it stands there, and its picture.

Nothing is cleaned here, unlike in tables to train on: scores depend on every letter. n rows, h, w pixels.
"""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from vglm_train.config.data import Format
from vglm_train.data.prefetch import read_ahead
from vglm_train.data.record import RecordError
from vglm_train.data.tables.base import TableFile, name_row
from vglm_train.data.tables.image_paths import PictureFolder, open_folder
from vglm_train.data.tables.layouts.image_names import ImageNames
from vglm_train.data.tables.pictures import Picture, pictures_in
from vglm_train.data.tables.readers import folder_of, open_table
from vglm_train.errors import UserError
from vglm_train.evaluate.metrics.answers import truth_polarity
from vglm_train.evaluate.protocols.schema import PICTURE, ROW, Kept, Layout
from vglm_train.image import Decoder, Fit, ImageError, whole_pixels

FIRST = 100  # pictures that are looked for before anything else

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OfficialItem:
    """A row of the benchmark. Texts are as they stand in its files. No answers: its server alone has them."""

    where: str  # for people
    id: int | str
    picture: Picture
    answers: tuple[str, ...]
    question: str = ""
    type: str | None = None
    closed: bool = False
    pixels: Tensor | None = None  # [1,3,h,w] uint8, once it is read

    @property
    def picture_name(self) -> str:
        """Its path, or the hash of a picture that the row itself holds."""
        return self.picture if isinstance(self.picture, str) else hashlib.sha256(self.picture).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Unread:
    """A row that cannot be used, and why."""

    where: str
    cause: str
    reason: str


@dataclass(frozen=True, slots=True)
class OfficialFiles:
    """The files of a benchmark, as they were given. `other`: rows that do not belong to the split."""

    layout: Layout
    paths: tuple[Path, ...]
    folder: PictureFolder
    items: list[OfficialItem]
    broken: list[Unread]
    other: int

    @property
    def rows(self) -> int:
        """Of the split."""
        return len(self.items) + len(self.broken)


def read_official(layouts: Sequence[Layout], data: str, join: str | None, pictures: str | None) -> OfficialFiles:
    """`data`: the folder with the files, or the main one; `join`: the other file, where it is not beside it under its
    own name; `pictures`: their folder, where it is not that of `data`.

    UserError where a file, a column or every picture is missing, or no row belongs to the split.
    """
    layout, main = _find(layouts, Path(data))
    other = _partner(layout, main, join)
    form: Format | None = "json" if layout.answers is None else None  # else its annotations would be asked for
    file = open_table(main, form, join=None if other is None else str(other))
    _check_columns(file, layout)
    found = list(_rows(file, layout))
    items = [each for each in found if isinstance(each, OfficialItem)]
    broken = [each for each in found if isinstance(each, Unread)]
    if not items:
        what = f"; the first: {broken[0].where}, {broken[0].reason}" if broken else ""
        raise UserError(
            f"{main}: none of its {len(found)} rows is of the protocol's split{_described(layout)}{what}. "
            f"Give {layout.main} as it was published ({layout.source}); for a table of your own use --task."
        )
    named = [item.picture for item in items[:FIRST] if isinstance(item.picture, str)]
    folder, _ = open_folder(main, Path(pictures) if pictures else folder_of(main), named)
    paths = (main,) if other is None else (main, other)
    return OfficialFiles(layout, paths, folder, items, broken, sum(each is None for each in found))


def _find(layouts: Sequence[Layout], data: Path) -> tuple[Layout, Path]:
    """The form of the files, and the main one."""
    if data.is_dir():
        for layout in layouts:
            if found := sorted(data.glob(layout.main)):
                return layout, found[0] if len(found) == 1 else data / layout.main
        names = " or ".join(layout.main for layout in layouts)
        raise UserError(f"--data {data}: the folder has no {names}, the benchmark's own file; give its folder or path.")
    if data.suffix == ".pkl":
        names = " or ".join(layout.main for layout in layouts)
        raise UserError(f"--data {data}: a pickle runs whatever is in it, so it is not read; give {names}.")
    named = next((layout for layout in layouts if fnmatch(data.name, layout.main)), None)
    if named is None and data.is_file() and not any(layout.join for layout in layouts):
        columns = open_table(data).columns
        named = next((each for each in layouts if not _missing(columns, each)), None)
    return named or layouts[0], data


def _partner(layout: Layout, main: Path, join: str | None) -> Path | None:
    """The file with the answers, where they stand apart."""
    if layout.join is None:
        if join is not None:
            raise UserError(f"--join {join}: {main.name} needs no other file; leave --join out.")
        return None
    path = main.with_name(layout.join) if join is None else Path(join)
    if not path.is_file():
        if join is not None:
            raise UserError(f"--join {path}: no such file; give the path of {layout.join}, the answers to {main.name}.")
        raise UserError(
            f"{path}: no such file; it holds the answers to {main.name}. Put it there, or name it as --join."
        )
    return path


def _columns(layout: Layout) -> list[str]:
    """Those that the rows must have, without what is within them."""
    keys = re.findall(r"{(\w+)", layout.image)
    marked = [part.column for part in (layout.closed, *layout.kept) if part is not None]
    named = [layout.question, layout.answers, layout.type, *keys, *marked]
    named += [] if layout.id in (PICTURE, ROW) else [layout.id]
    return list(dict.fromkeys(name.partition(".")[0] for name in named if name is not None))


def _missing(columns: Sequence[str], layout: Layout) -> list[str]:
    return [name for name in _columns(layout) if name not in columns]


def _check_columns(file: TableFile, layout: Layout) -> None:
    if missing := _missing(file.columns, layout):
        raise UserError(
            f"{file.path}: its rows have no {', '.join(map(repr, missing))}, so this is not {layout.main} of the "
            f"benchmark ({layout.source}); they have {', '.join(map(repr, file.columns))}. For a table of your own use "
            "--task."
        )


def _described(layout: Layout) -> str:
    """Which rows are kept, in words."""
    told = [f"{kept.column} {' or '.join(kept.values)}" for kept in layout.kept]
    return f" ({', '.join(told)})" if told else ""


def _rows(file: TableFile, layout: Layout) -> Iterator[OfficialItem | Unread | None]:
    """Every row of the file; None: it is of another split."""
    names, number = ImageNames(layout.image), 0
    for row in file.scan():
        where = name_row(file, row)
        if row.values is None:
            yield Unread(where, "record", f"the row cannot be read ({row.cause})")
        elif all(_has(row.values, kept) for kept in layout.kept):
            try:
                yield _item(row.values, layout, names, where, number)
            except RecordError as error:
                yield Unread(where, error.cause, str(error))
            number += 1
        else:
            yield None


def _item(row: dict[str, Any], layout: Layout, names: ImageNames, where: str, number: int) -> OfficialItem:
    """RecordError where something is missing in the row."""
    answers = () if layout.answers is None else tuple(_texts(_at(row, layout.answers)))
    if layout.answers is not None and not answers:
        raise RecordError("caption", f"the row has no {layout.answers}")
    question = "" if layout.question is None else _at(row, layout.question)
    if not isinstance(question, str) or (layout.question and not question.strip()):
        raise RecordError("record", "the row has no question")
    closed = all(truth_polarity(answer) is not None for answer in answers)
    if layout.closed is not None:
        closed = _has(row, layout.closed)
    kind = None if layout.type is None else _at(row, layout.type)
    picture = _picture(row, layout, names)
    item = OfficialItem(where, number, picture, answers, question, None if kind is None else str(kind), closed)
    return replace(item, id=_id(row, layout, picture, number))


def _picture(row: dict[str, Any], layout: Layout, names: ImageNames) -> Picture:
    """A path, or the file's bytes, which the row itself may hold."""
    key = re.fullmatch(r"{(\w+)}", layout.image)
    held = pictures_in(row.get(key[1])) if key and not isinstance(row.get(key[1]), str | int) else []
    picture = held[0] if held else names.name_of(row)
    if not picture:
        raise RecordError("image", "the row names no picture")
    return picture


def _id(row: dict[str, Any], layout: Layout, picture: Picture, number: int) -> int | str:
    if layout.id == ROW:
        return number
    if layout.id == PICTURE:
        found = re.search(r"(\d+)\.\w+$", picture) if isinstance(picture, str) else None
        if found is None:
            raise RecordError("record", "no number ends the picture's name")
        return int(found[1])
    held = row.get(layout.id)
    if not isinstance(held, str | int) or isinstance(held, bool):
        raise RecordError("record", f"the row has no {layout.id}")
    return held


def _at(row: Any, path: str) -> Any:
    """What stands under a dotted path; within a list, of each of its objects."""
    key, _, rest = path.partition(".")
    held = row.get(key) if isinstance(row, dict) else None
    if not rest:
        return held
    return [_at(each, rest) for each in held] if isinstance(held, list) else _at(held, rest)


def _texts(cell: Any) -> Iterator[str]:
    """The texts of a cell as they are; a number as it is written."""
    for each in cell if isinstance(cell, list) else [cell]:
        if isinstance(each, str | int | float) and not isinstance(each, bool):
            yield str(each)


def _has(row: dict[str, Any], kept: Kept) -> bool:
    return str(_at(row, kept.column)).strip().lower() in [value.lower() for value in kept.values]


class OfficialSet(Dataset[Any]):
    """Items with their pictures. Iterating leaves out those whose picture cannot be had, counts them in `damaged` by
    cause and names them in the log."""

    def __init__(
        self,
        files: OfficialFiles,
        size: int,
        limit: int | None,
        decoder: Decoder | None = None,
        fit: Fit | None = None,
    ) -> None:
        """`limit`: only so many items, spread evenly over the file; None: all."""
        total = len(files.items)
        count = total if limit is None else min(limit, total)
        self.items = [files.items[number * total // count] for number in range(count)]
        self.folder, self.size, self.decoder, self.fit = files.folder, size, decoder, fit
        self.damaged: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> OfficialItem | Unread:
        item = self.items[index]
        try:
            data = item.picture if isinstance(item.picture, bytes) else self.folder.read(item.picture)[1]
            return replace(item, pixels=whole_pixels(data, self.size, self.decoder, self.fit)[None])
        except RecordError as error:
            return Unread(item.where, error.cause, str(error))
        except ImageError as error:
            return Unread(item.where, "bomb" if error.cause == "bomb" else "image", str(error))

    def read(self, workers: int) -> Iterator[OfficialItem]:
        """The usable ones in order; `workers` processes decode (0: this one)."""
        for item in read_ahead(self, range(len(self)), workers):
            if isinstance(item, OfficialItem):
                yield item
            else:
                self.damaged[item.cause] += 1
                logger.warning("left out of the evaluation: %s (%s): %s", item.where, item.cause, item.reason)
