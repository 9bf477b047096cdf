"""Rows that name a study instead of pictures: by its folder, or by a number that its DICOM files have."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from vglm_train.data.record import RecordError
from vglm_train.data.tables.canonical import label
from vglm_train.data.tables.cells import names_in
from vglm_train.data.tables.fields import known
from vglm_train.data.tables.image_paths import PictureFolder, begins_as_dicom, is_picture, plain_name
from vglm_train.data.tables.layouts.rows import Values
from vglm_train.image import FORMATS, ImageError
from vglm_train.image.dicom.header import guarded, read_tags
from vglm_train.progress import Progress

NUMBERS = ("StudyInstanceUID", "AccessionNumber", "StudyID")  # tags that a table's study may be, in this order
NONE = "a study without any picture: no folder of that name, and no DICOM file with that number"
SEVERAL = "a study's number that several studies of the folder have"
EMPTY = "a study without any picture: the row does not say which study; fill its cell"
BESIDE = (
    "a row that names a folder and, in another column, a picture in it: which pictures the report is of is not known. "
    "Write the picture's path into one column, or give --study-field if the folder is one study"
)
SPLIT = "give the study's UID or its folder in place of that number"
NO_STUDY = "DICOM without a Study Instance UID"
DICOM_ENDINGS = tuple(f".{suffix}" for suffix in FORMATS["DICOM"])
NO_DICOM = "a file whose name says DICOM, and whose first bytes do not"
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
    unread: dict[Path, str] = field(default_factory=dict)  # files that were looked through, and tell no study -> why

    @cached_property
    def by_number(self) -> dict[tuple[str, str], dict[str, list[Path]]]:
        """(tag of NUMBERS, its value) -> study -> files."""
        found: dict[tuple[str, str], dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
        every = pictures_below(self.folder)
        files = [path for path in every if begins_as_dicom(path)]
        named = set(every).difference(files)
        self.unread.update({path: NO_DICOM for path in named if path.suffix.lower() in DICOM_ENDINGS})
        with Progress(len(files), "file", "look through the folder") as bar, ThreadPoolExecutor(THREADS) as pool:
            for path, numbers in zip(files, pool.map(_numbers_of, files)):
                bar.update(1)
                if isinstance(numbers, str):
                    self.unread[path] = numbers
                    continue
                for tag, value in numbers.items():
                    found[tag, value][numbers["StudyInstanceUID"]].append(path)
        return found

    @property
    def unnamed(self) -> int:
        """Studies that no row has named; 0 where the folder was not looked through."""
        known = self.__dict__.get("by_number", {}).values()
        files = {study: files for studies in known for study, files in studies.items() if study not in self.named}
        return sum(not any(self.folders.intersection(file.parents) for file in each) for each in files.values())

    def lines(self) -> Iterator[str]:
        """What of the folder is in no record, as text; files are not named, since their names may name patients."""
        if self.unnamed:
            yield f"studies of the folder that no row names, or none by a number of its own: {self.unnamed}"
        for cause, count in Counter(self.unread.values()).most_common():
            yield f"files of the folder that tell no study: {count} x {cause}"
        if beside := sum(path.parent in self._places for path in self.unread):
            yield (
                f"of these {beside} lie in folders of studies that rows name, whose records may lack a view: fetch "
                "the files there again that a viewer of DICOM does not open, and convert again"
            )

    @property
    def _places(self) -> set[Path]:
        """Folders with files of studies that rows have named."""
        studies = self.__dict__.get("by_number", {}).values()
        files = (file for each in studies for study, files in each.items() if study in self.named for file in files)
        return {file.parent for file in files}

    def files(self, name: str) -> list[Path]:
        """The pictures of a study; none where there is none, or the name is that of several."""
        below = self.below(name)
        if below is not None:
            self.folders.add(below)
            return pictures_below(below)
        studies = self._studies(name)
        if len(studies) != 1:
            return []
        self.named.update(studies)
        return next(iter(studies.values()))

    def below(self, name: str) -> Path | None:
        """The folder of that name. None where there is none, or it holds this whole folder, as .. and / do."""
        path = self.folder / plain_name(name)
        return path if _is_folder(path) and not self.folder.resolve().is_relative_to(path.resolve()) else None

    def named_above(self, file: str) -> Path | None:
        """The outermost folder with that file which a row has named."""
        above = reversed(Path(file).parents) if self.folders else ()
        return next((path for path in above if path in self.folders), None)

    def name_of(self, files: Sequence[str]) -> str | None:
        """The name of the folder that a row has named and that has become these files."""
        common = Path(os.path.commonpath(list(map(os.path.dirname, files))))
        found = next((path for path in (common, *common.parents) if path in self.folders), None)
        return None if found is None else os.path.relpath(found, self.folder)

    def why_none(self, name: str) -> str:
        """Why `files` finds none."""
        studies = self._studies(name)
        return f"{SEVERAL}: {len(studies)}, maybe of several patients; {SPLIT}" if len(studies) > 1 else NONE

    def _studies(self, name: str) -> dict[str, list[Path]]:
        keys = ((tag, name.strip()) for tag in NUMBERS)
        return next((self.by_number[key] for key in keys if key in self.by_number), {})


def _numbers_of(path: Path) -> dict[str, str] | str:
    """Tag of NUMBERS -> value; of a file that tells no study, why."""
    try:
        dataset = read_tags(path, NUMBERS)
        with guarded():
            numbers = {tag: str(dataset.get(tag) or "").strip() for tag in NUMBERS}
    except ImageError as error:
        return error.what
    except OSError as error:
        return f"a file that cannot be read ({error.strerror})"
    return {tag: value for tag, value in numbers.items() if value} if numbers["StudyInstanceUID"] else NO_STUDY


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
        names = list(names_in(row.get(self.column)))
        if not self.numbers and not any(self.folder.below(name) for name in names):
            return row
        return row | {self.image: [picture for name in names for picture in self._pictures(name)]}

    def check(self, row: Values) -> None:
        """RecordError where the row names a folder, and in another column a picture in it."""
        images = row.get(self.image)
        if self.numbers or not isinstance(images, list):
            return
        folders = {self.folder.named_above(image) for image in images if isinstance(image, str)} - {None}
        keys = [key for key in row if key not in (self.column, self.image)] if folders else []
        names = [name for key in (*known("image", keys), *known("image_id", keys)) for name in names_in(row[key])]
        if any(PictureFolder(folder).find(name) for folder in folders if folder for name in names):
            raise RecordError("image", BESIDE)

    def study(self, row: Values, column: str) -> str | None:
        """What stands in the column, which tells the study."""
        cell = row.get(column)
        if isinstance(cell, list) and column == self.image and cell and all(isinstance(each, str) for each in cell):
            return self.folder.name_of(cell)
        return label(cell)

    def why_none(self, row: Values) -> str:
        """Why a row has no picture."""
        names = list(names_in(row.get(self.column)))
        if not names:
            return EMPTY
        return self.folder.why_none(names[0]) if self.numbers else NONE

    def _pictures(self, name: str) -> Sequence[str]:
        if self.numbers or self.folder.below(name):
            return [str(path) for path in self.folder.files(name)]
        return [name]
