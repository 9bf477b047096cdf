"""Whether the rows of a table name pictures, or studies, told from the table and the hospital's folder.

A report must not get the pictures of another study, so a folder that may be that of several studies is refused.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from vglm_train.clinic.plan import Options
from vglm_train.config.data import Fields, Source
from vglm_train.data.tables.base import Row, RowReader, keys_of, name_row
from vglm_train.data.tables.cells import is_missing, names_in
from vglm_train.data.tables.fields import known
from vglm_train.data.tables.image_paths import PictureFolder, plain_name
from vglm_train.data.tables.json_table import FIRST
from vglm_train.data.tables.readers import open_source
from vglm_train.errors import UserError

Rows = Iterable[Mapping[str, Any]]


def find_studies(options: Options, fields: Fields) -> Options:
    """The options, with whether the column of pictures holds folders: the one that the conversion reads. `fields`: of
    the table.

    UserError where neither the table nor a person says which column tells the pictures, and where a folder may be that
    of several studies. A column of folders is not taken by itself: a report would get the pictures of all studies in a
    patient's folder.
    """
    if options.study_field is not None:
        return options
    source = Source(name="reports", table=str(options.reports), images=str(options.folder), fields=fields)
    reader = open_source(source)
    rows = [row.values for row in islice(reader.scan(), FIRST) if row.values is not None]
    keys = keys_of(rows)
    if pictures := (fields.image,) if fields.image else known("image", keys):
        if any(isinstance(row.get(pictures[0]), bytes | dict) for row in rows):
            return options  # pictures that are inside the table
        _refuse_shared(reader, options, fields, pictures[0], keys)
        return replace(options, folders=_folders(_values(reader), pictures[0], options.folder))
    if not rows:
        return options  # what reads the pictures says why no row can be read
    found = [key for key in keys if _folders(rows, key, options.folder)]  # of a study, a patient or a year
    hint = f"{' and '.join(map(repr, found))} holds folders of {options.folder}; " if found else ""
    named = next(iter(known("image_id", keys)), "COLUMN")
    raise UserError(
        f"--reports {options.reports}: no column is known to hold a picture; {hint}the columns are "
        f"{', '.join(map(repr, keys))}. Give --study-field {found[0] if found else 'COLUMN'} if a row's report is of "
        "all pictures of the study that stands there: its folder, or a number that its DICOM files have (Study "
        f"Instance UID, accession number, study ID). Give --field image={named} for a column with paths of pictures"
    )


def _refuse_shared(reader: RowReader, options: Options, fields: Fields, column: str, keys: Sequence[str]) -> None:
    """UserError where a row names a folder and, in another column, a picture in it; and where two rows name a folder
    with different reports, and ask nothing."""
    others = [key for key in (*known("image", keys), *known("image_id", keys)) if key != column]
    asks = fields.question or fields.turns or any(known(what, keys) for what in ("question", "turns", "input"))
    answers = (fields.answer,) if fields.answer else (*known("caption", keys), *known("answer", keys))
    reports: dict[Path, tuple[int, Row]] = {}
    for row in reader.scan():
        values = row.values or {}
        for folder in filter(None, (_folder(options.folder, name) for name in names_in(values.get(column)))):
            for key in others:
                if any(map(PictureFolder(folder).find, names_in(values.get(key)))):
                    raise _beside(options, column, key, name_row(reader, row))
            told = [held for key in answers or keys if not is_missing(held := values.get(key))]
            first = (
                reports.setdefault(folder, (hash(repr(told)), row._replace(values=None))) if told and not asks else None
            )
            if first and first[0] != hash(repr(told)):
                raise _twice(options, column, name_row(reader, first[1]), name_row(reader, row))
    for inner, (report, row) in reports.items():
        for outer in (reports[path] for path in inner.parents if path in reports):
            if outer[0] != report:
                raise _twice(options, column, name_row(reader, outer[1]), name_row(reader, row))


def _beside(options: Options, column: str, other: str, where: str) -> UserError:
    return UserError(
        f"--reports {options.reports}: {where}: {column!r} names a folder, and {other!r} a picture in it, so a report "
        f"of one picture would get all of the folder. Write both into one column, as folder/picture, or leave "
        f"{other!r} out of the table if the report is of all pictures in the folder"
    )


def _twice(options: Options, column: str, first: str, second: str) -> UserError:
    return UserError(
        f"--reports {options.reports}: {first} and {second} name one folder in {column!r}, or one in the other, and "
        "their reports differ: if it is a patient's, a report would get the pictures of other studies. Give a folder "
        f"for each study; or, if all rows of a folder are of one study, --study-field {column}"
    )


def _values(reader: RowReader) -> Iterator[Mapping[str, Any]]:
    return (row.values for row in reader.scan() if row.values is not None)


def _folders(rows: Rows, column: str, folder: Path) -> bool:
    """Whether this column holds folders below `folder`, and no picture that is there."""
    pictures, found = PictureFolder(folder), False
    for name in (name for row in rows for name in names_in(row.get(column))):
        if _folder(folder, name):
            found = True
        elif pictures.find(name):
            return False
    return found


def _folder(folder: Path, name: str) -> Path | None:
    """The folder of that name below `folder`, without links: one there may lead to another place."""
    try:
        inner = Path(os.path.normpath(folder / plain_name(name)))
        if not inner.is_dir():
            return None
        whole, real = folder.resolve(), inner.resolve()
        below = inner.is_relative_to(folder) or real.is_relative_to(whole)
        return real if below and not whole.is_relative_to(real) else None
    except (OSError, ValueError):  # no name of a file
        return None
