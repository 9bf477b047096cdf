"""Rows that name a study instead of pictures: by its folder, or by a number that its DICOM files have."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vglm_train.data.tables.cells import is_missing, number_text
from vglm_train.data.tables.image_paths import begins_as_dicom, is_picture, plain_name
from vglm_train.data.tables.layouts.rows import Values
from vglm_train.image import ImageError
from vglm_train.image.dicom.header import read_tags
from vglm_train.progress import Progress

NUMBERS = ("StudyInstanceUID", "AccessionNumber", "StudyID")  # tags that a table's study may be, in this order
NONE = "a study without any picture: no folder of that name, and no DICOM file with that number"
SEVERAL = "a study's number that several studies of the folder have"
THREADS = 8  # that read headers: most of the time they wait for the disk


def pictures_below(folder: Path) -> list[Path]:
    """The pictures in a folder and in those below it, by name."""
    return sorted(path for path in folder.rglob("*") if is_picture(path))


@dataclass(frozen=True)
class StudyFolder:
    """A folder with studies of DICOM files, which are looked through once, when a number is first asked for."""

    folder: Path
    named: set[str] = field(default_factory=set)  # studies that rows have named by numbers
    folders: set[Path] = field(default_factory=set)  # and folders

    @cached_property
    def by_number(self) -> dict[tuple[str, str], dict[str, list[Path]]]:
        """(tag of NUMBERS, its value) -> study -> files."""
        found: dict[tuple[str, str], dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
        files = [path for path in pictures_below(self.folder) if begins_as_dicom(path)]
        with Progress(len(files), "file", "look through the folder") as bar, ThreadPoolExecutor(THREADS) as pool:
            for path, numbers in zip(files, pool.map(_numbers_of, files)):
                bar.update(1)
                for tag, value in numbers.items():
                    found[tag, value][numbers["StudyInstanceUID"]].append(path)
        return found

    @property
    def unnamed(self) -> int:
        """Studies that no row has named; 0 where the folder was not looked through."""
        known = self.__dict__.get("by_number", {}).values()
        files = {study: files for studies in known for study, files in studies.items() if study not in self.named}
        return sum(not any(self.folders.intersection(file.parents) for file in each) for each in files.values())

    def files(self, name: str) -> list[Path]:
        """The pictures of a study; none where there is none, or the name is that of several."""
        below = self.folder / plain_name(name)
        if _is_folder(below):
            self.folders.add(below)
            return pictures_below(below)
        studies = self._studies(name)
        if len(studies) != 1:
            return []
        self.named.update(studies)
        return next(iter(studies.values()))

    def why_none(self, name: str) -> str:
        """Why `files` finds none."""
        return SEVERAL if len(self._studies(name)) > 1 else NONE

    def _studies(self, name: str) -> dict[str, list[Path]]:
        keys = ((tag, name.strip()) for tag in NUMBERS)
        return next((self.by_number[key] for key in keys if key in self.by_number), {})


def _numbers_of(path: Path) -> dict[str, str]:
    """Tag of NUMBERS -> value; none of a file without pixels or without a study."""
    try:
        dataset = read_tags(path, NUMBERS)
    except (ImageError, OSError):
        return {}
    numbers = {tag: str(dataset.get(tag) or "").strip() for tag in NUMBERS}
    return {tag: value for tag, value in numbers.items() if value} if numbers["StudyInstanceUID"] else {}


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # no name of a file
        return False


@dataclass(frozen=True)
class StudyPictures:
    """A step on rows: the folder of a study in `column` becomes its files; with `numbers` a study's number too."""

    column: str
    folder: StudyFolder
    numbers: bool
    image: str = "image"

    @property
    def adds(self) -> tuple[str, ...]:
        return (self.image,)

    @property
    def name(self) -> str:
        return repr((self.column, str(self.folder.folder), self.numbers, self.image))

    def __call__(self, row: Values) -> Values:
        names = list(_names(row.get(self.column)))
        if not self.numbers and not any(_is_folder(self.folder.folder / plain_name(name)) for name in names):
            return row
        return row | {self.image: [picture for name in names for picture in self._pictures(name)]}

    def why_none(self, row: Values) -> str:
        """Why a row has no picture."""
        return next((self.folder.why_none(name) for name in _names(row.get(self.column)) if self.numbers), NONE)

    def _pictures(self, name: str) -> Sequence[str]:
        if self.numbers or _is_folder(self.folder.folder / plain_name(name)):
            return [str(path) for path in self.folder.files(name)]
        return [name]


def _names(cell: Any) -> Iterator[str]:
    each: Iterable[Any] = cell if isinstance(cell, list | tuple) else [cell]
    for held in each:
        if isinstance(held, str) and not is_missing(held):
            yield held
        elif isinstance(held, int | float) and (text := number_text(held)) is not None:
            yield text
