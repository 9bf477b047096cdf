"""Places that a person names for what is written: made, or refused in one message before the work begins."""

import os
import tempfile
from pathlib import Path

from vglm_train.errors import UserError


def check_folder(named: str, folder: Path) -> None:
    """UserError where `folder` cannot be written in, or cannot be made; nothing is made.

    `named`: the option or field that gives the folder, or a file in it, as a person wrote it: "--out scores.json".
    """
    standing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not standing.is_dir():
        raise UserError(f"{named}: {standing} is no folder, and one is needed there. Give another path.")
    try:
        with tempfile.TemporaryFile(dir=standing):
            pass
    except OSError as error:
        raise _refused(named, standing, error) from error


def make_folder(named: str, folder: Path) -> None:
    """`folder` with its parents, made where it is not there. UserError as by `check_folder`."""
    check_folder(named, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(named, folder.parent, error) from error


def _refused(named: str, place: Path, error: OSError) -> UserError:
    return UserError(
        f"{named}: nothing can be written in {place} ({error.strerror}). Make it writable, or give another path."
    )
