"""Files that are whole or absent, whatever happens while they are written.

A file is written as NAME.tmp-0 in the folder it belongs to, synced, and renamed when it is whole. Its writer holds a
lock on that temporary until it ends, however it ends. The next writer takes over a temporary without a lock: a killed
process left it. If a living process holds NAME.tmp-0, the next writer uses NAME.tmp-1. Where there are no locks
(Windows, some network file systems) nothing tells a leftover from work in progress, so leftovers stay.
"""

import hashlib
import json
import os
import re
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from typing import IO, Any, BinaryIO, TypeVar

from vglm_train.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Item = TypeVar("Item")

_TEMPORARY = re.compile(r".+\.tmp-(\d+|old)")
_SEEKING = threading.Lock()  # of `read_at`, where a descriptor's position is shared by threads
_ASKED = 64  # files whose states are asked for one by one
_SLOW = 100e-6  # seconds for most of them; then those of the next are asked for side by side:
_ASIDE, _ASKING = 128, 32  # times as many, by threads, which cost more than they save where a local disk answers
_TIDIED = 4  # temporaries of one name that are looked for: as many of its writers may have been killed at once


@contextmanager
def replace_file(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write, which becomes `path` once it is whole and on disk. An error leaves `path` as it was.

    Not durable: it survives a kill but no power cut, and costs no wait for the disk, for thousands of small files.
    UserError where `path` is a folder or a device: /dev/null or /dev/stdout must not become a file.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: no ordinary file, so it cannot be written anew; give a file's name")
    temporary, file = claim_temporary(path, claim_file, tidy_file)
    try:
        yield file
        file.flush()
        if durable:
            os.fsync(file.fileno())
        close_where_open_files_stay(file)
        os.replace(temporary, path)
    except BaseException:
        close_where_open_files_stay(file)
        temporary.unlink(missing_ok=True)  # before the lock goes: afterwards it may be another writer's
        with suppress(OSError):  # of a full disk
            file.close()
        raise
    file.close()
    if durable:
        sync(path.parent)


def file_states(files: Iterable[tuple[Path, Item]]) -> Iterator[tuple[Item, os.stat_result | OSError]]:
    """Each path's item with the file's size and times, or why they cannot be had, in the order given.

    Where each takes long, as on a network's file system, many are asked for side by side.
    """

    def states(some: Sequence[tuple[Path, Item]]) -> list[tuple[Item, os.stat_result | OSError]]:
        return [(item, _state(path)) for path, item in some]

    rest = iter(files)
    with ThreadPoolExecutor(_ASKING) as pool:  # starts its threads when they are needed
        while part := list(islice(rest, _ASKED)):
            found, moments = [], [time.perf_counter()]
            for path, item in part:
                found.append((item, _state(path)))
                moments.append(time.perf_counter())
            yield from found
            slow = median(after - before for before, after in pairwise(moments)) > _SLOW
            more = [part for _ in range(_ASIDE) if slow and (part := list(islice(rest, _ASKED)))]
            for found in pool.map(states, more):
                yield from found


def _state(path: Path) -> os.stat_result | OSError:
    try:
        return path.stat()
    except OSError as error:
        return error


def write_text(path: Path, text: str) -> None:
    """A file in UTF-8, whole or absent."""
    with replace_file(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, value: Any, indent: int = 1) -> None:
    """A JSON file, whole or absent."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=indent) + "\n")


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a power cut."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Hex digest of a file, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_binary(path: Path) -> int:
    """A descriptor for `read_at`. Windows would change line ends without being told not to."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """os.pread, also where there is none (Windows): fewer than `size` bytes at the end of the file alone."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, offset)
    with _SEEKING:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, size)


def user_cache() -> Path:
    """The folder for what can be made again.

    $VGLM_CACHE, else vglm_train in the system's folder of caches: $XDG_CACHE_HOME or ~/.cache, on Windows
    %LOCALAPPDATA%, on macOS ~/Library/Caches.
    """
    if own := os.environ.get("VGLM_CACHE"):
        return Path(own).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME")
    if not caches and os.name == "nt":
        caches = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    if not caches:
        caches = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    return Path(caches).expanduser() / "vglm_train"


def temporary_of(path: Path, suffix: str | int) -> Path:
    """NAME -> NAME.tmp-SUFFIX, in the same folder."""
    whole = Path(os.path.abspath(path))
    return whole.with_name(f"{whole.name}.tmp-{suffix}")


def is_temporary(path: Path) -> bool:
    """Whether the name is that of something unfinished."""
    return _TEMPORARY.fullmatch(path.name) is not None


def claim_temporary(
    path: Path, claim: Callable[[Path], BinaryIO | None], tidy: Callable[[Path], None]
) -> tuple[Path, BinaryIO]:
    """The first temporary of `path` that `claim` can take, and its lock. `tidy` deletes further ones that are free."""
    number = 0
    while (lock := claim(temporary_of(path, number))) is None:
        number += 1
    for other in range(_TIDIED):
        if other != number:
            tidy(temporary_of(path, other))
    return temporary_of(path, number), lock


def claim_file(path: Path) -> BinaryIO | None:
    """An empty file that is locked until it is closed; None where another process holds it."""
    try:
        file, is_new = open(path, "x+b"), True  # noqa: SIM115  (closing it ends the lock)
    except FileExistsError:
        if fcntl is None:
            return None
        try:
            file, is_new = open(path, "r+b"), False  # noqa: SIM115
        except OSError:  # deleted meanwhile, a folder, or another person's
            return None
    if _lock(file, path, is_new):
        file.truncate(0)
        return file
    file.close()
    return None


def _lock(file: BinaryIO, path: Path, is_new: bool) -> bool:
    """Lock the file that was opened as `path`. False where it is another's, or was renamed or deleted meanwhile."""
    locked = lock(file)
    if locked is None:
        return is_new
    try:
        return locked and os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def lock(file: IO[Any] | int, wait: bool = False, of_process: bool = False) -> bool | None:
    """Take the exclusive lock of an open file. False where another holds it; `wait`: until nobody does.

    None where there are no locks: on Windows and some network file systems. The lock goes with the last process that
    inherited the file, or, `of_process`, with this one, and then not at all within it.
    """
    if fcntl is None:
        return None
    try:
        take = fcntl.lockf if of_process else fcntl.flock
        take(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None


def is_locked(path: Path) -> bool | None:
    """Whether another process holds the lock `of_process` of a file; None where that cannot be asked."""
    if fcntl is None or sys.platform != "linux" or sys.maxsize < 2**32:
        return None  # the question's form is Linux's
    question = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)  # type, whence, start, length, process
    try:
        with path.open("rb") as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, question)
    except OSError:
        return None
    return bool(struct.unpack_from("h", answer)[0] != fcntl.F_UNLCK)


def tidy_file(temporary: Path) -> None:
    """Delete a temporary file that no living process holds."""
    if os.path.lexists(temporary) and (file := claim_file(temporary)) is not None:
        close_where_open_files_stay(file)
        temporary.unlink(missing_ok=True)
        file.close()


def close_where_open_files_stay(file: BinaryIO) -> None:
    """Windows neither renames nor deletes an open file. Elsewhere it stays open, as closing it would unlock it."""
    if fcntl is None:
        with suppress(OSError):
            file.close()
