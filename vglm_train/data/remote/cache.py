"""Copies of remote shards on a local disk, shared by all processes of a host.

A shard is fetched whole, then read like any other. It is written to NAME.part, whose lock one process holds; the others
wait for it. Once its size and digest are right it becomes NAME.tar by renaming. Copies go in the order of their last
opening; a process that has one open reads on, since a file lives until it is closed. No process asks again for a shard
that was given up (NAME.failed) for REST seconds, else every worker would wait through all tries of its own.
"""

import hashlib
import io
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, cast

from vglm_train.config.data import Cache
from vglm_train.data.remote.download import Unreachable, download
from vglm_train.data.shards.address import server_of
from vglm_train.data.shards.index import SUFFIX as INDEX
from vglm_train.data.shards.index import make_index, write_index
from vglm_train.data.shards.shard import Shard
from vglm_train.errors import UserError
from vglm_train.files import lock, open_binary, user_cache
from vglm_train.folders import make_folder

GIB = 2**30
RETRY_AFTER = 600  # seconds

logger = logging.getLogger(__name__)


class ShardCache:
    """The shard cache of a host. It has no state but its folder: every process makes its own."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.folder = Path(cache.folder).expanduser() if cache.folder else user_cache() / "shards"
        self.limit = int(cache.limit_gib * GIB)

    def path(self, url: str, sha256: str) -> Path:
        """The path of a shard's copy, of this version of it."""
        return self.folder / f"{_digest(url)}-{sha256[:16] or 'new'}.tar"

    def begin(self) -> None:
        """At the start of a run: forget what servers could not give last time, and make sure of the folder."""
        make_folder(f"data.cache.folder {self.folder}", self.folder)
        for pattern in ("*.failed", "*.down"):
            for mark in self.folder.glob(pattern):
                mark.unlink(missing_ok=True)
        for mark in self.folder.glob("*.short"):
            mark.with_suffix(".tar").unlink(missing_ok=True)
            mark.unlink(missing_ok=True)

    def open(self, shard: Shard) -> int:
        """A handle of the shard's copy, fetched if it is not here. Unreachable if it cannot be."""
        for _ in range(10):
            with suppress(FileNotFoundError):
                handle = open_binary(shard.path)
                with suppress(FileNotFoundError):
                    os.utime(shard.path)
                return handle
            self.fetch(shard)
        raise UserError(
            f"{shard.where}: its copy is gone whenever it is to be read: data.cache.limit_gib "
            f"{self.cache.limit_gib:g} is too small for the shards that are read at once. Raise it."
        )

    def fetch(self, shard: Shard, wait: bool = True) -> None:
        """Bring a copy of the shard here. Unreachable if that cannot be; `wait`: also while another process does."""
        while not shard.path.exists():
            self._refuse_given_up(shard)
            with _locked(shard.path.with_suffix(".part"), wait) as part:
                if part is not None:
                    self._fetch(shard, part)
                elif not wait:
                    return

    def _refuse_given_up(self, shard: Shard) -> None:
        mark = shard.path.with_suffix(".failed")
        with suppress(FileNotFoundError):
            if time.time() - mark.stat().st_mtime < RETRY_AFTER:
                raise Unreachable(mark.read_text("utf-8"))

    def _fetch(self, shard: Shard, part: BinaryIO) -> None:
        path = shard.path
        if path.exists():
            Path(part.name).unlink()
            return
        self._refuse_given_up(shard)
        try:
            self.evict(shard.bytes)
            self._bring(shard, part)
        except Unreachable as error:
            path.with_suffix(".failed").write_text(str(error), "utf-8")
            if not shard.sha256:  # else it can be gone on from later
                Path(part.name).unlink()
            counted = f"its {shard.samples} samples count as unreachable" if shard.samples else "it is left out"
            logger.error("%s: %s: given up for %d minutes; %s", shard.where, error, RETRY_AFTER // 60, counted)
            raise
        except OSError as error:
            raise UserError(
                f"data.cache.folder {self.folder}: {error.strerror} while {shard.where} was fetched. "
                "Set data.cache.limit_gib to what the disk has, or choose another folder."
            ) from None
        os.replace(part.name, path)
        self.evict(0)

    def _bring(self, shard: Shard, part: BinaryIO) -> None:
        """Until its bytes are the manifest's, or it is clear that the server's are not."""
        url, down = shard.url or "", self.folder / f"{_digest(server_of(shard.url or ''))}.down"
        for last in (False, True):
            try:
                download(url, part, self._patience(down), shard.bytes or None)
            except Unreachable as error:
                if error.silent:
                    down.touch()
                raise
            down.unlink(missing_ok=True)
            size = part.seek(0, os.SEEK_END)
            if not shard.bytes or self._is_right(shard, part, size):
                return
            part.seek(0)
            part.truncate()
            reason = f"its {size} bytes are not those that the manifest counts and hashes ({shard.bytes} bytes)"
            if last:
                raise Unreachable(reason)
            logger.warning("%s: %s; fetched once more", shard.where, reason)

    def _patience(self, down: Path) -> Cache:
        """One retry for a server that was down for another shard a moment ago: the shards of a shuffle buffer must not
        each wait through all tries."""
        with suppress(FileNotFoundError):
            if time.time() - down.stat().st_mtime < RETRY_AFTER:
                return replace(self.cache, retries=min(1, self.cache.retries))
        return self.cache

    def _is_right(self, shard: Shard, part: BinaryIO, size: int) -> bool:
        """Whether it can be read: the manifest's bytes, or fewer. Then its index is written, for all workers."""
        if size < shard.bytes:
            logger.warning(
                "%s: has %d bytes on its server, the manifest says %d: the samples that are whole are read, the "
                "others count as truncated",
                shard.where, size, shard.bytes,
            )  # fmt: skip
            shard.path.with_suffix(".short").touch()
            return True
        part.seek(0)
        found = hashlib.file_digest(cast(io.BufferedRandom, part), "sha256").hexdigest()
        if size > shard.bytes or (shard.sha256 and found != shard.sha256):
            return False
        write_index(shard.path, make_index(Path(part.name)), shard.sha256)
        return True

    def evict(self, wanted: int) -> None:
        """Delete what was not opened for longest, until `wanted` bytes more are within the limit."""
        files = sorted(self._files(), key=lambda file: file[1].st_mtime)
        total = sum(stat.st_size for _, stat in files) + wanted
        for path, stat in files:
            if total <= self.limit:
                return
            if _drop(path):
                total -= stat.st_size

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith((".tar", ".part")):
                    with suppress(FileNotFoundError):
                        yield Path(entry.path), entry.stat()


@contextmanager
def _locked(path: Path, wait: bool) -> Iterator[BinaryIO | None]:
    """The file, open, with its lock held; None if it was renamed or deleted meanwhile, or is another's (no `wait`)."""
    with open(path, "a+b") as file:
        try:
            same = lock(file, wait) is not False and os.fstat(file.fileno()).st_ino == path.stat().st_ino
        except FileNotFoundError:
            same = False
        yield cast(BinaryIO, file) if same else None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process of the host at a time."""
    with open(path, "ab") as file:
        lock(file, wait=True)
        yield


def _drop(path: Path) -> bool:
    """Delete a copy with what belongs to it; not one that is being fetched."""
    if path.suffix == ".part":
        with _locked(path, wait=False) as part:
            if part is not None:
                path.unlink()
            return part is not None
    for suffix in (path.suffix, INDEX, ".short"):
        path.with_suffix(suffix).unlink(missing_ok=True)
    return True


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()
