"""Files that are whole or absent, content hashes, and the shell of a command."""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from vglm_train.command import run_command
from vglm_train.errors import UserError
from vglm_train.places import make_folder

BLOCK = 1 << 20


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file aside and rename it onto `path` once it is whole and on disk; an error leaves `path` as it was.

    UserError where `path` is a folder or a device: /dev/null or /dev/stdout must not become a file.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: no ordinary file, so it cannot be written anew; give a file's name")
    aside = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """A JSON file, whole or absent."""
    with replacing(path) as file:
        file.write(json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8") + b"\n")


def json_line(value: Any) -> bytes:
    """A line of a JSONL file."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def output(path: Path, inputs: Sequence[Path]) -> Path:
    """Where a records file is written: resolved, its folder made. UserError where it is one of the inputs."""
    out = path.resolve()
    if out in [each.resolve() for each in inputs]:
        raise UserError(f"--out {path} is an input itself; give another file")
    if out.exists() and not out.is_file():
        raise UserError(f"--out {path} is {'a folder' if out.is_dir() else 'no ordinary file'}; give a file's name")
    make_folder(f"--out {path}", out.parent)
    return out


def dropped_path(given: Path | None, out: Path) -> Path:
    """Where the manifest of what was dropped is written. UserError where that is `out` itself."""
    path = out.with_suffix(".dropped.jsonl") if given is None else given.resolve()
    if path == out:
        raise UserError(f"--dropped {given} is --out itself; give another file")
    make_folder(f"--dropped {given or path}", path.parent)
    return path


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Hex digest of a file, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def nearest(name: str, names: Iterable[str]) -> str:
    """' (nearest: X)' for an error message, or nothing when no name is near."""
    close = get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" (nearest: {close[0]!r})" if close else ""


def progress(total: int | None, unit: str, text: str) -> Any:
    """A progress bar with rate and ETA on stderr; sparse lines where stderr is not a terminal."""
    interval = 0.2 if sys.stderr.isatty() else 15.0
    return tqdm(total=total, unit=unit, desc=text, unit_scale=unit == "B", mininterval=interval, dynamic_ncols=True)


def parser(module: str, text: str | None) -> argparse.ArgumentParser:
    """An argument parser for `python -m module` that shows the module's text as it is written."""
    layout = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=f"python -m {module}", description=text, formatter_class=layout)


def at_least_one(text: str) -> int:
    """An argparse type: a whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def command(main: Callable[[], int]) -> None:
    """Run a command and end the process; see `vglm_train.command.run_command`."""
    sys.exit(run_command(main))
