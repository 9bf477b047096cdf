"""What a batch is about: the rows of a table, or the pictures of a folder."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from vglm_train.data.record import RecordError
from vglm_train.data.tables.base import TableFile, keys_of, name_row, sample_key, unreadable
from vglm_train.data.tables.canonical import pictures_of, question_of
from vglm_train.data.tables.dicom_rows import any_dicom, may_be_dicom, picture_names
from vglm_train.data.tables.fields import Columns, resolve
from vglm_train.data.tables.image_paths import ENDINGS, PictureFolder, is_picture
from vglm_train.data.tables.json_table import FIRST
from vglm_train.data.tables.pictures import Picture
from vglm_train.data.tables.readers import folder_of, open_source
from vglm_train.errors import UserError
from vglm_train.evaluate.vqa.source import parse_source
from vglm_train.image.dicom.private import Salt, open_salt

SAVED = ("state.json", "dataset_dict.json")  # a folder that `datasets` saved is a table


@dataclass(frozen=True, slots=True)
class Input:
    """A question about pictures."""

    key: str  # names it, the same in every run
    images: tuple[str, ...]  # as they are named
    question: str = ""  # empty: nothing is asked about them
    history: tuple[tuple[str, str], ...] = ()
    contents: tuple[Path | bytes, ...] = ()  # the pictures themselves
    problem: str | None = None  # why it cannot be asked

    def tell(self, error: str) -> str:
        """An error with the pictures as they are named here."""
        for name, content in zip(self.images, self.contents):
            if isinstance(content, Path) and name not in str(content):
                error = error.replace(str(content), name)
        return error


@dataclass(frozen=True, slots=True)
class Inputs:
    """All of them, in order. They can be counted before they are read."""

    count: int
    source: "FolderInputs | AskingTable"

    def __iter__(self) -> Iterator[Input]:
        return iter(self.source)


class FolderInputs:
    """The pictures of a folder and those below it, by name. DICOM files are called by salted hashes of their names."""

    def __init__(self, folder: Path) -> None:
        """UserError if there are none."""
        self.folder = folder
        files = (path for path in folder.rglob("*") if is_picture(path))
        self.names = sorted(path.relative_to(folder).as_posix() for path in files)
        if not self.names:
            raise UserError(f"{folder}: no pictures in it ({', '.join(ENDINGS)}).")

    def __iter__(self) -> Iterator[Input]:
        for name in self.names:
            called = name
            if may_be_dicom(name, PictureFolder(self.folder)):
                called = f"DICOM {self.salt.hash('file', name)}"
            yield Input(called, (called,), contents=(self.folder / name,))

    @cached_property
    def salt(self) -> Salt:
        """The user's own."""
        return open_salt(None)


class AskingTable:
    """The rows of a table, which need no answers."""

    def __init__(self, path: Path, pictures: str | None, fields: str | None) -> None:
        """UserError if the file is no table or names no pictures."""
        source = parse_source(str(path), pictures, fields, (), "--batch")
        self.file: TableFile = open_source(source)
        first = [row.values for row in islice(self.file.scan(), FIRST)]
        if not first:
            raise UserError(f"{path}: it has no rows.")
        self.columns: Columns = resolve(path, keys_of(first), source.fields, answered=False)
        self.path, self.pictures = path, PictureFolder(Path(pictures) if pictures else folder_of(path))
        self.dicom = any(any_dicom(self._named(values), self.pictures) for values in first if values is not None)

    def _named(self, values: Mapping[str, Any]) -> Sequence[Picture]:
        try:
            return pictures_of(values, self.columns)
        except RecordError:
            return ()

    def __iter__(self) -> Iterator[Input]:
        for row in self.file.scan():
            where = name_row(self.file, row)
            key = sample_key(self.path, where)
            if row.values is None:
                yield Input(key, (), problem=f"{where}: {unreadable(row.cause or 'json')}")
                continue
            try:
                question, history, named = question_of(row.values, self.columns)
            except RecordError as error:
                yield Input(key, (), problem=f"{where}: {error}")
                continue
            places = picture_names(where, len(named))
            names = tuple(
                place if isinstance(each, bytes) or self.dicom or may_be_dicom(each, self.pictures) else each
                for place, each in zip(places, named)
            )
            yield Input(key, names, question, tuple(history), tuple(self._content(each) for each in named))

    def _content(self, named: str | bytes) -> Path | bytes:
        if isinstance(named, bytes):
            return named
        return self.pictures.find(named) or self.pictures.folder / named


def open_inputs(path: Path, pictures: str | None, fields: str | None) -> Inputs:
    """A table or a folder of pictures, counted. UserError if it is neither."""
    if path.is_dir() and not any((path / name).is_file() for name in SAVED):
        if pictures or fields:
            raise UserError(f"--pictures and --fields are for a table, and {path} is a folder of pictures.")
        folder = FolderInputs(path)
        return Inputs(len(folder.names), folder)
    table = AskingTable(path, pictures, fields)
    return Inputs(sum(1 for _ in table.file.scan()), table)
