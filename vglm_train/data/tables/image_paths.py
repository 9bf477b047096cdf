"""Where the pictures that a table names lie."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from vglm_train.errors import UserError
from vglm_train.image import SUFFIXES

ENDINGS = tuple(f".{case}" for suffix in SUFFIXES for case in (suffix, suffix.upper()))  # tried where a name has none
SUGGESTED = 3  # folders above the table that are searched
FOLDERS = 50  # of one folder at most


def find(folder: Path, name: str) -> Path | None:
    """The file that a table's `name` means, below `folder` unless it is absolute; None where there is none."""
    path = folder / name
    if path.is_file():
        return path
    if path.suffix.lower() in ENDINGS:
        return None
    return next((file for ending in ENDINGS if (file := path.with_name(path.name + ending)).is_file()), None)


def check(table: Path, folder: Path, names: Sequence[str]) -> int:
    """How many of the first rows' pictures exist. UserError where none does: it says which path was tried, and which
    folder near the table has them."""
    present = _count(folder, names)
    if present or not names:
        return present
    best = max(_near(table, folder), key=lambda near: _count(near, names), default=folder)
    elsewhere = _count(best, names)
    hint = (
        f"{elsewhere} of them are in {best}: set images: {best} in the source"
        if elsewhere
        else "set images in the source to the folder that these paths are relative to"
    )
    raise UserError(
        f"{table}: of the first {len(names)} pictures it names, none is there. {names[0]!r} was looked for as "
        f"{folder / names[0]}; {hint} (check_table: --images; evaluate: --pictures)."
    )


def _count(folder: Path, names: Iterable[str]) -> int:
    return sum(find(folder, name) is not None for name in names)


def _near(table: Path, folder: Path) -> list[Path]:
    """Folders where people keep pictures: here and above the table, and one step down from the nearest of these."""
    above = list(table.absolute().parents)[:SUGGESTED]
    near = [Path.cwd(), folder, folder.parent, *above]
    for each in (Path.cwd(), *above[:2]):
        near += [below for below in sorted(each.iterdir()) if below.is_dir()][:FOLDERS]
    return list(dict.fromkeys(near))
