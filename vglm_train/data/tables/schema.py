"""How a table is read, told from its first rows: which key means what, and where its pictures lie.

`Schema.read` alone says whether a row's texts can be used, `pictures` and the decoder whether its pictures can: the
index, training, `check_table` and `convert` all ask these.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from vglm_train.config.data import Source
from vglm_train.data.record import RecordError
from vglm_train.data.tables.base import RowReader, describe_causes, keys_of
from vglm_train.data.tables.canonical import RowReading, read_row
from vglm_train.data.tables.choices import find_first_number, read_choices
from vglm_train.data.tables.dicom_rows import any_dicom
from vglm_train.data.tables.fields import Columns, known, resolve, value
from vglm_train.data.tables.image_paths import PictureFolder, open_folder
from vglm_train.data.tables.json_table import FIRST
from vglm_train.data.tables.pictures import Picture
from vglm_train.data.tables.readers import folder_of
from vglm_train.data.tables.unread import unread_texts
from vglm_train.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Schema:
    """`keys`: of the first rows; `unread`: those that look like text and are not read, each with an example, which is
    empty where the pictures are DICOM; `dicom`: whether one of the first rows is."""

    keys: tuple[str, ...]
    columns: Columns
    pictures: PictureFolder
    unread: dict[str, str]
    dicom: bool = False

    def read(self, row: Mapping[str, Any]) -> RowReading:
        """The row as a record. RecordError where it cannot be used."""
        return read_row(row, self.columns)


def find_schema(rows: RowReader, source: Source, own: Mapping[str, tuple[str, ...]] | None = None) -> Schema:
    """`own`: columns that are not found but given, by the fields of Columns. UserError where no row can be read, or
    keys or pictures are missing."""
    assert source.table is not None
    path = Path(source.table)
    first = list(islice(rows.scan(), FIRST))
    readable = [row.values for row in first if row.values is not None]
    if not readable:
        what = f"none of its first {len(first)} rows can be read" if first else "it has no rows"
        raise UserError(f"{path}: {what}{describe_causes(rows, first)}.")
    keys = keys_of(readable)
    given: dict[str, Any] = dict(own or {})
    try:
        columns = replace(resolve(path, keys, source.fields), **given)
    except UserError as error:
        raise UserError(f"{error}{_nested_rows(readable[0])}") from None
    columns = replace(columns, first_choice=_first_choice(readable, columns))
    folder = Path(source.images) if source.images else folder_of(path)
    named = _first_pictures(readable, columns)
    pictures = _find_pictures(path, [name for name in named if isinstance(name, str)], folder)
    unread, dicom = unread_texts(readable, columns), any_dicom(named, pictures)
    return Schema(keys, columns, pictures, dict.fromkeys(unread, "") if dicom else unread, dicom)


def _nested_rows(row: Mapping[str, Any]) -> str:
    """What to do where a row holds rows of its own, such as the questions about a picture; empty where it does not."""
    for key, held in row.items():
        inner = held[0] if isinstance(held, list) and held and isinstance(held[0], dict) else {}
        if known("question", tuple(inner)) or known("answer", tuple(inner)):
            return (
                f" Its {key!r} holds rows of its own ({', '.join(map(repr, inner))}): write one row for each of them, "
                f"in Python [row | each for row in rows for each in row[{key!r}]]."
            )
    return ""


def _first_choice(rows: Sequence[dict[str, Any]], columns: Columns) -> int:
    """Whether answers by number count choices from 0 or from 1."""
    answered = []
    for row in rows if columns.options else ():
        with suppress(RecordError):
            choices, cell = read_choices(row, columns.options), value(row, columns.answer)
            answered += [(each, choices) for each in (cell if isinstance(cell, list) else [cell])]
    return find_first_number(answered)


def _first_pictures(rows: Sequence[dict[str, Any]], columns: Columns) -> list[Picture]:
    named: dict[Picture, None] = {}
    for row in rows:
        with suppress(RecordError):
            named |= dict.fromkeys(read_row(row, columns).pictures)
    return list(named)


def _find_pictures(path: Path, named: Sequence[str], folder: Path) -> PictureFolder:
    pictures, present = open_folder(path, folder, named)
    if present < len(named):
        logger.warning(
            "%s: %d of the first %d pictures it names are not in %s", path, len(named) - present, len(named), folder
        )
    return pictures
