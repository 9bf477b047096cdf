"""Fingerprints: SHA-256 of everything in a file or folder, so that what changed under a run or bundle is noticed.

A file is read once. Its hash is kept in the user's cache folder, under its path, size and times, so that later starts
read only what has changed since.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from vglm_train.errors import UserError
from vglm_train.files import sha256, user_cache, write_json
from vglm_train.progress import Progress

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
SHAPES = ("config.json", "model_config.json")  # of Hugging Face, of SAT
TOKENIZERS = (".json", ".txt", ".model", ".jinja", ".tiktoken")
LINES = (".txt", ".jinja", ".tiktoken")
KEPT_FROM = 1 << 20  # bytes of a file from which its hash is worth keeping
SETTLED = 2 * 10**9  # ns: a file that changed less long ago may change again within one tick of the clock
THREADS = 8
LARGEST_CACHE = 2000  # entries


def fingerprint(path: Path) -> str:
    """Of a file, the SHA-256 of its bytes. Of a folder of weights, the same over names and content of its weights and
    of the configuration that gives their shape. UserError where something cannot be read.
    """
    if path.is_file():
        return content_hashes([path])[path]
    return "folder:" + _of_folder(path, lambda file: file.suffix in WEIGHTS or file.name in SHAPES)


def tokenizer_fingerprint(path: Path) -> str:
    """SHA-256 of what is read of the files that a tokenizer may consist of: of text its lines, however they end; of
    JSON its values, however they are laid out; of other files the bytes. UserError as `fingerprint`.
    """
    if path.is_file():
        return _hash_of_text(path)
    inside = [file for file in path.iterdir() if file.suffix in TOKENIZERS and not _is_index(file)]
    return "folder:" + _digest({file.name: _hash_of_text(file) for file in inside})


def bundle_fingerprint(path: Path) -> str:
    """As `fingerprint`, of every file of a bundle."""
    return "folder:" + _of_folder(path, lambda file: True)


def same_content(path: Path, expected: str) -> bool:
    """Whether a file or folder still has the fingerprint `expected`, which an earlier version may have taken."""
    if path.is_dir() and not expected.startswith("folder:"):
        return _of_first_bytes(path) == expected
    return fingerprint(path) == expected


def content_hashes(files: Iterable[Path]) -> dict[Path, str]:
    """SHA-256 of each file, several read side by side, with a progress bar where it takes long."""
    cache = _Cache()
    states = {file: _state(file) for file in files}
    found = {file: known for file, state in states.items() if (known := cache.get(file, state)) is not None}
    unread = {file: state for file, state in states.items() if file not in found}
    total = sum(state[0] for state in unread.values())
    with Progress(total, "B", "fingerprint") as bar, ThreadPoolExecutor(THREADS) as pool:
        for file, hashed in zip(unread, pool.map(_read, unread)):
            found[file] = hashed
            bar.update(unread[file][0])
    cache.keep({file: (state, found[file]) for file, state in unread.items()})
    return {file: found[file] for file in states}


def _of_folder(path: Path, wanted: Callable[[Path], bool]) -> str:
    parts = {file: file.relative_to(path) for file in path.rglob("*")}
    shown = {file: name for file, name in parts.items() if not any(part.startswith(".") for part in name.parts)}
    hashes = content_hashes(sorted(file for file in shown if wanted(file) and file.is_file()))
    return _digest({shown[file].as_posix(): hashed for file, hashed in hashes.items()})


def _of_first_bytes(path: Path) -> str:
    """The fingerprint of a folder in bundles of before 2026-11-26: names, sizes and the first MiB of each file."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.suffix in (".safetensors", ".bin", ".pt")):
        digest.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(2**20))
    return digest.hexdigest()


def _hash_of_text(file: Path) -> str:
    """Of a tokenizer's file."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    if file.suffix in LINES:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").removesuffix(b"\n")
    elif file.suffix == ".json":
        with suppress(ValueError):  # whoever reads it says what is wrong
            content = json.dumps(json.loads(content)).encode()
    return hashlib.sha256(content).hexdigest()


def _is_index(file: Path) -> bool:
    """Whether a JSON file lists the parts of weights."""
    return file.name.endswith(".index.json")


def _digest(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()


def _read(file: Path) -> str:
    try:
        return sha256(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None


def _state(file: Path) -> list[int]:
    """What changes when a file does: size, times and number."""
    try:
        state = os.stat(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


class _Cache:
    """Hashes that earlier starts found. One that cannot be read or written only costs time."""

    def __init__(self) -> None:
        self.path = user_cache() / "fingerprints.json"
        self.entries: dict[str, list[Any]] = {}
        with suppress(OSError, ValueError):
            entries = json.loads(self.path.read_text("utf-8"))
            self.entries = entries if isinstance(entries, dict) else {}

    def get(self, file: Path, state: list[int]) -> str | None:
        entry = self.entries.get(os.path.abspath(file))
        return entry[1] if isinstance(entry, list) and len(entry) == 2 and entry[0] == state else None

    def keep(self, found: Mapping[Path, tuple[list[int], str]]) -> None:
        settled = time.time_ns() - SETTLED
        new = {
            os.path.abspath(file): [state, hashed]
            for file, (state, hashed) in found.items()
            if state[0] >= KEPT_FROM and max(state[1], state[2]) < settled and _state(file) == state
        }
        if not new:
            return
        entries = dict(list({**self.entries, **new}.items())[-LARGEST_CACHE:])
        with suppress(OSError, UserError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, entries)
