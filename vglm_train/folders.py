"""Folders that are whole or absent, whatever happens while they are written.

    NAME.tmp-0/NAME       what is being written
    NAME.tmp-0/NAME.lock  held by its writer, see `vglm_train.files`
    NAME.tmp-old          the folder that stood under NAME, between two renames

A folder takes the place of an older one in a single step where the system can exchange two names (Linux, on most local
file systems). Then a whole folder stands under the name at any moment. Elsewhere it takes two renames. A kill between
them leaves nothing under the name, and `recover` renames the older folder back. Every reader calls it first.
"""

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from vglm_train.errors import UserError
from vglm_train.files import (
    claim_file,
    claim_temporary,
    close_where_open_files_stay,
    is_temporary,
    sync,
    temporary_of,
    tidy_file,
)

_ATTEMPTS = 5  # to replace a folder by two renames while readers call `recover`
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes `path` once it is whole and on disk. An error leaves `path` as it was.

    What stands under the name is replaced. Missing parents are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_path(path) as new:
        new.mkdir()
        yield new


@contextmanager
def replace_path(path: Path) -> Iterator[Path]:
    """As `replace_folder`, for a caller that makes a file or a folder of the name that it gets."""
    path = Path(os.path.abspath(path))
    recover(path)
    staging, lock = claim_temporary(path, _claim_folder, _tidy)
    try:
        new, old = staging / path.name, temporary_of(path, "old")
        if os.path.lexists(old):  # there is a whole folder of the name, so this one is a leftover
            os.rename(old, staging / old.name)
            _delete(staging / old.name)
        yield new
        for each in sorted(new.rglob("*"), reverse=True):
            sync(each)
        sync(new)
        _replace(new, path)
        sync(path.parent)
    finally:
        _discard(staging, lock)


def recover(path: Path) -> None:
    """Give a folder its name back if a process ended between the two renames of a replacement.

    UserError where that is not possible, as on a disk that cannot be written.
    """
    if os.path.lexists(path):
        return
    old = temporary_of(path, "old")
    if not os.path.lexists(old):
        return
    try:
        os.rename(old, path)
    except OSError as error:
        if not os.path.lexists(path):  # else another process was faster
            raise UserError(
                f"{path}: a process ended while it replaced this folder. The earlier one is {old} and cannot be "
                f"renamed ({error.strerror}). Rename it to {path.name}."
            ) from error


def tidy(folder: Path) -> None:
    """Delete what killed processes left half-written in `folder`."""
    for path in folder.iterdir():
        if is_temporary(path) and path.suffix != ".tmp-old":  # an old one may be all there is
            _tidy(path)


def check_folder(named: str, folder: Path) -> None:
    """UserError where `folder` cannot be written in, or cannot be made; nothing is made.

    `named`: the option or field that gives the folder, or a file in it, as a person wrote it: "--out scores.json".
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise UserError(f"{named}: {existing} is no folder, and one is needed there. Give another path.")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise _not_writable(named, existing, error) from error


def make_folder(named: str, folder: Path) -> None:
    """`folder` with its parents, made where it is not there. UserError as by `check_folder`."""
    check_folder(named, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(named, folder.parent, error) from error


def _not_writable(named: str, folder: Path, error: OSError) -> UserError:
    return UserError(
        f"{named}: nothing can be written in {folder} ({error.strerror}). Make it writable, or give another path."
    )


def _claim_folder(folder: Path) -> BinaryIO | None:
    """An empty folder but for its lock, which is held until it is closed; None where another process holds it."""
    with suppress(FileExistsError):
        folder.mkdir()
    try:
        lock = claim_file(_lock_of(folder))
    except (FileNotFoundError, NotADirectoryError):  # deleted meanwhile, or a file
        return None
    if lock is not None:
        _empty(folder)
    return lock


def _lock_of(folder: Path) -> Path:
    """NAME.tmp-0 -> NAME.tmp-0/NAME.lock"""
    return folder / f"{folder.stem}.lock"


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path != _lock_of(folder):
            _delete(path)


def _discard(folder: Path, lock: BinaryIO) -> None:
    """Delete a claimed folder, the lock after what it protects."""
    with suppress(OSError):
        _empty(folder)
        close_where_open_files_stay(lock)
        _lock_of(folder).unlink()
        folder.rmdir()
    lock.close()


def _tidy(temporary: Path) -> None:
    """Delete a temporary file or folder that no living process holds."""
    if not temporary.is_dir():
        tidy_file(temporary)
    elif (lock := _claim_folder(temporary)) is not None:
        _discard(temporary, lock)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _replace(new: Path, path: Path) -> None:
    """Give `new` the name `path`. What had that name ends up beside `new`."""
    is_folder = new.is_dir() or path.is_dir()
    if not is_folder or not os.path.lexists(path):
        os.replace(new, path)
    elif not exchange(new, path):
        _replace_in_two_steps(new, path)


def _replace_in_two_steps(new: Path, path: Path) -> None:
    old = temporary_of(path, "old")
    for attempt in range(_ATTEMPTS):
        os.rename(path, old)
        try:
            os.rename(new, path)
            break
        except OSError:  # a reader has called `recover`, or the rename is not allowed
            recover(path)
            if attempt + 1 == _ATTEMPTS:
                raise
    os.rename(old, new.with_name(old.name))


def exchange(one: Path, other: Path) -> bool:
    """Exchange what two names stand for, in one step; False where the system or the file system cannot."""
    renameat2 = _renameat2()
    if renameat2 is None:
        return False
    status: int = renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return status == 0


@cache
def _renameat2() -> Any:
    """Linux's renameat2(2), from glibc 2.28 on; None elsewhere."""
    if sys.platform != "linux":
        return None
    function = getattr(ctypes.CDLL(None), "renameat2", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return function
