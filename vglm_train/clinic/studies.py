"""Whether the rows of a table name pictures, or studies, told from its first rows and the hospital's folder."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from vglm_train.clinic.plan import Options
from vglm_train.config.data import Fields, Source
from vglm_train.data.tables.base import keys_of
from vglm_train.data.tables.fields import known
from vglm_train.data.tables.image_paths import PictureFolder, plain_name
from vglm_train.data.tables.json_table import FIRST
from vglm_train.data.tables.readers import open_source
from vglm_train.errors import UserError


def find_studies(options: Options, fields: Fields) -> Options:
    """The options, with whether the column of pictures holds folders. `fields`: of the table.

    UserError where neither the table nor a person says which column tells the pictures. A column of folders is not
    taken by itself: a report would get the pictures of all studies in a patient's folder.
    """
    if options.study_field is not None:
        return options
    source = Source(name="reports", table=str(options.reports), images=str(options.folder), fields=fields)
    rows = [row.values for row in islice(open_source(source).scan(), FIRST) if row.values is not None]
    keys = keys_of(rows)
    if pictures := (fields.image,) if fields.image else known("image", keys):
        return replace(options, folders=_folders(rows, pictures, options.folder))
    if not rows:
        return options  # what reads the pictures says why no row can be read
    found = [key for key in keys if _folders(rows, (key,), options.folder)]  # of a study, a patient or a year
    hint = f"{' and '.join(map(repr, found))} holds folders of {options.folder}; " if found else ""
    raise UserError(
        f"--reports {options.reports}: no column is known to hold a picture; {hint}the columns are "
        f"{', '.join(map(repr, keys))}. Give --study-field {found[0] if found else 'COLUMN'} if a row's report is of "
        "all pictures of the study that stands there: its folder, or a number that its DICOM files have (Study "
        "Instance UID, accession number, study ID). Give --field image=COLUMN for a column with paths of pictures"
    )


def _folders(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], folder: Path) -> bool:
    """Whether these columns hold folders below `folder`, and no picture that is there."""
    cells = [row[column] for row in rows for column in columns if isinstance(row.get(column), str) and row[column]]
    pictures = PictureFolder(folder)
    return any(_is_folder(folder, cell) for cell in cells) and not any(map(pictures.find, cells))


def _is_folder(folder: Path, cell: str) -> bool:
    try:
        inner = folder / plain_name(cell)
        return inner.is_dir() and inner.resolve() != folder.resolve()
    except (OSError, ValueError):  # no name of a file
        return False
