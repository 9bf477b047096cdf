"""Where the pictures that a table names lie, in whichever way another system wrote their paths.

A name is looked for as it is written. Where no file is there, it is looked for as Windows, a browser or macOS may have
written it: / for each backslash, without file:// or a drive, % codes and accents in their other form, the ending in
other letters. A name that begins at the root of another machine (/data/images/1.png, D:\\images\\1.png) is looked for
below the folder, without its root and without the leading folders that all such names of the table share.
"""

import errno
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from urllib.parse import unquote

from vglm_train.data.record import RecordError
from vglm_train.errors import UserError
from vglm_train.file_kind import LOOKED_AT
from vglm_train.image import SUFFIXES
from vglm_train.image.dicom import is_dicom

ENDINGS = tuple(f".{suffix}" for suffix in SUFFIXES)  # tried where a name has none of them, in any case
SUGGESTED = 3  # folders above the table that are searched
FOLDERS = 50  # of one folder at most
TRIED = 5  # names whose leading folders are tried
NOT_THERE = "a picture that is not there"
ADDRESS = "a picture at an address, which is not fetched; download it first, for instance with img2dataset"
FOLDER = "a picture whose path is a folder"
DEAD_LINK = "a picture that is a link to nothing"
NO_NAME = "a picture whose path no file can have (too long, or with signs that names cannot hold)"
NOT_A_FILE = "a picture whose path is no ordinary file"
SHOWN = 120  # characters of a name in a message
LONGEST = 400  # characters of a path in one

_ADDRESS = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+://", re.IGNORECASE)  # http, s3, oss, hdfs; D:// is a drive
_OF_NAMES = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
_ROOT = re.compile(r"(?:[A-Za-z]:)?/+|[A-Za-z]:")


@dataclass(frozen=True)
class PictureFolder:
    """The folder that a table's names start from. `elsewhere`: how names begin that start from another machine's, such
    as D:/data/; empty: none does."""

    folder: Path
    elsewhere: str = ""

    def find(self, name: str) -> Path | None:
        """The file that `name` means; None where there is none."""
        path = self.folder / name
        if _is_file(path):
            return path
        return next(filter(_is_file, self._candidates(name)), None)

    def read(self, name: str) -> tuple[Path, bytes]:
        """The file that `name` means, and its bytes. RecordError says why there is none."""
        path = self.find(name)
        if path is None:
            raise RecordError("image", self.problem(name))
        try:
            return path, path.read_bytes()
        except OSError as error:
            raise RecordError("image", refused(path, error)) from None

    def problem(self, name: str) -> str:
        """Why there is no file that `name` means: a cause that many names may have, a colon, and this name."""
        if _ADDRESS.match(name):
            return f"{ADDRESS}: {name[:SHOWN]}"
        path = self.folder / plain_name(name)
        shown = str(path).encode("utf-8", "replace").decode().replace("\0", "\\0")[:LONGEST]
        try:
            if path.is_dir():
                return f"{FOLDER}: {shown}"
            if path.is_symlink():
                return f"{DEAD_LINK}: {shown}"
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return f"{NOT_THERE}: {shown}"
        except ValueError:
            return f"{NO_NAME}: {shown}"
        except OSError as error:
            return f"{NO_NAME}: {shown}" if error.errno in _OF_NAMES else refused(path, error)
        return f"{NOT_A_FILE}: {shown}"

    def key(self, name: str) -> str:
        """How names are compared: images/./a.jpg, images\\a.jpg and images/a.jpg are one, and so is, in a folder /data,
        /data/images/a.jpg. An absolute path to anywhere else stays as it is."""
        plain = os.path.normpath(plain_name(name) if _is_foreign(name) else name)
        start = next((start for start in self._starts if plain.startswith(start)), "")
        return plain.removeprefix(start)

    @cached_property
    def _starts(self) -> tuple[str, ...]:
        own = [f"{each}/" for each in dict.fromkeys((os.path.abspath(self.folder), self.folder.resolve()))]
        return (*own, self.elsewhere) if self.elsewhere else tuple(own)

    def _candidates(self, name: str) -> Iterator[Path]:
        """Where else the file may be, the likeliest first."""
        plain = plain_name(name)
        names = [name, plain]
        if self.elsewhere and plain.startswith(self.elsewhere):
            names.append(plain.removeprefix(self.elsewhere))
        names += [text.removeprefix(root[0]) for text in (plain,) if (root := _ROOT.match(text))]
        names += [unquote(text) for text in names if "%" in text]
        for form in ("NFC", "NFD"):
            names += [unicodedata.normalize(form, text) for text in names if not text.isascii()]
        for text in dict.fromkeys(names):
            yield from _endings(self.folder / text)


def open_folder(table: Path, folder: Path, names: Sequence[str]) -> tuple[PictureFolder, int]:
    """The folder of a table's pictures, and how many of `names`, those of its first rows, it has.

    UserError where it has none: it says which path was tried, and which folder near the table has them.
    """
    pictures = _with_elsewhere(folder, names)
    present = _count(pictures, names)
    if present or not names:
        return pictures, present
    shown = f"{names[0][:SHOWN]!r}"
    if _ADDRESS.match(names[0]):
        raise UserError(
            f"{table}: it names its pictures by addresses, such as {shown}. Download them, for instance with "
            "img2dataset, and name the files."
        )
    few = names[:: -(-len(names) // TRIED)]
    best = max(_near(table, folder), key=lambda near: _count(_with_elsewhere(near, few), few), default=folder)
    elsewhere = _count(_with_elsewhere(best, names), names)
    hint = (
        f"{elsewhere} of them are in {best}: set images: {best} in the source"
        if elsewhere
        else "set images in the source to the folder that these paths are relative to"
    )
    raise UserError(
        f"{table}: of the first {len(names)} pictures it names, none is there. {shown} was looked for as "
        f"{_tried(folder, names[0])}; {hint} (check_table: --images; evaluate: --pictures)."
    )


def refused(path: Path, error: OSError) -> str:
    """Why a file that is there cannot be read, as `PictureFolder.problem`."""
    return f"a picture that cannot be read, {error.strerror or error}: {path}"


def plain_name(name: str) -> str:
    """A path as this system writes it."""
    if name.lower().startswith("file://"):
        name = unquote(name[len("file://") :].removeprefix("localhost"))
        name = name[1:] if re.match("/[A-Za-z]:", name) else name
    return name.replace("\\", "/")


def _is_foreign(name: str) -> bool:
    return "\\" in name or "://" in name


def is_picture(path: Path) -> bool:
    """By its ending; DICOM files, which often have none or a number for one, by how they begin."""
    if not _is_file(path) or path.name == "DICOMDIR":
        return False
    return path.suffix.lower() in ENDINGS or begins_as_dicom(path)


def begins_as_dicom(path: Path) -> bool:
    """By its first bytes; False where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return is_dicom(file.read(LOOKED_AT))
    except OSError:
        return False


def _tried(folder: Path, name: str) -> str:
    plain = plain_name(name)
    root = _ROOT.match(plain)
    tried = [folder / name, folder / plain, *([folder / plain.removeprefix(root[0])] if root else [])]
    return " and ".join(str(path)[-2 * SHOWN :].replace("\0", "\\0") for path in dict.fromkeys(tried))


def _endings(path: Path) -> Iterator[Path]:
    """A path, with its ending in other letters, or with one of ENDINGS where it has none of them."""
    yield path
    with suppress(ValueError):  # of a path without a name
        if path.suffix.lower() in ENDINGS:
            yield from (path.with_suffix(ending) for ending in (path.suffix.lower(), path.suffix.upper()))
            return
        yield from (path.with_name(path.name + each) for ending in ENDINGS for each in (ending, ending.upper()))


def _is_file(path: Path) -> bool:
    """False also where the system refuses the name, or to look."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _with_elsewhere(folder: Path, names: Sequence[str]) -> PictureFolder:
    """With the leading folders that names from another machine's root lose: the same of all names, so that no two of
    them can mean one file."""
    own = PictureFolder(folder)
    rooted = (plain for name in names if _ROOT.match(plain := plain_name(name)) and own.find(name) is None)
    starts: dict[str, int] = {}
    for name in islice(rooted, TRIED):
        parts = name.split("/")
        for start in ("/".join(parts[:number]) + "/" for number in range(1, len(parts))):
            starts[start] = starts.get(start, 0) + any(map(_is_file, _endings(folder / name.removeprefix(start))))
    best = max(starts, key=starts.__getitem__, default="")
    return PictureFolder(folder, best) if starts.get(best) else own


def _count(pictures: PictureFolder, names: Iterable[str]) -> int:
    return sum(pictures.find(name) is not None for name in names)


def _near(table: Path, folder: Path) -> list[Path]:
    """Folders where people keep pictures: here and above the table, and one step down from the nearest of these."""
    above = list(table.absolute().parents)[:SUGGESTED]
    near = [Path.cwd(), folder, folder.parent, *above]
    for each in (Path.cwd(), *above[:2]):
        with suppress(OSError):
            near += [below for below in sorted(each.iterdir()) if below.is_dir()][:FOLDERS]
    return list(dict.fromkeys(near))
