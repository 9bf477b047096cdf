"""A process that ends between any two of its file-system calls, as by kill -9 at that moment."""

import builtins
import contextlib
import io
import os
import traceback
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch

from vglm_train import folders
from vglm_train.checkpoint import resume

DIED = 9
CALLS = [
    (os, "rename"), (os, "replace"), (os, "mkdir"), (os, "unlink"), (os, "remove"), (os, "rmdir"), (os, "chmod"),
    (os, "fsync"), (os, "open"), (io, "open"), (builtins, "open"), (folders, "exchange"),
]  # fmt: skip
WRITERS = [(resume, "save_file"), (torch, "save")]  # that write a file on their own: they may end half-way


class _Counter:
    """Ends the process before call number `last`."""

    def __init__(self, last: int) -> None:
        self.left = last

    def tick(self, before: Callable[[], Any] = lambda: None) -> None:
        if self.left == 0:
            before()
            os._exit(DIED)
        self.left -= 1

    def wrapped(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            if name != "open" or _writes(*args, **options):
                self.tick()
            return None if name == "fsync" else call(*args, **options)  # a kill takes nothing that was written

        return counted

    def torn(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(content: Any, path: Any, *args: Any) -> None:
            self.tick()
            call(content, path, *args)
            self.tick(lambda: os.truncate(path, os.path.getsize(path) // 2))

        return counted


def _writes(_path: Any, mode: Any = "r", *_: Any, **__: Any) -> bool:
    """Whether a call of open, or os.open, may change a file."""
    if isinstance(mode, int):
        return bool(mode & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return any(letter in mode for letter in "wax+")


def run(work: Callable[[], Any], last: int | None = None) -> int:
    """Do `work` in a forked process, which ends before its file-system call number `last`; its exit status."""
    process = os.fork()
    if process == 0:
        status = 1
        with contextlib.suppress(BaseException):
            try:
                if last is not None:
                    _install(_Counter(last))
                work()
                status = 0
            except BaseException:
                traceback.print_exc()
                raise
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _install(counter: _Counter) -> None:
    for module, name in CALLS:
        setattr(module, name, counter.wrapped(getattr(module, name), name))
    for module, name in WRITERS:
        setattr(module, name, counter.torn(getattr(module, name)))


def everywhere(work: Callable[[], Any], prepare: Callable[[], None]) -> Iterator[int]:
    """`prepare`, then `work` in a process that ends before its first file-system call, its second, and so on.

    Yields after each end. A last process does all of it, which proves that every call was tried.
    """
    for number in count():
        prepare()
        status = run(work, number)
        if status == 0:
            return
        assert status == DIED
        yield number


def content(path: Path) -> dict[str, bytes] | bytes:
    """A file, or everything in a folder."""
    if path.is_file():
        return path.read_bytes()
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def put(path: Path, kept: dict[str, bytes] | bytes) -> None:
    """What `content` gave, written again."""
    if isinstance(kept, bytes):
        path.write_bytes(kept)
        return
    for name, value in kept.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(value)
