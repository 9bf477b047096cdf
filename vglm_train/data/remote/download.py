"""A remote file, whole, in spite of its server: retries, and going on where a connection broke off."""

import io
import logging
import os
import random
import time
from typing import BinaryIO

from vglm_train.config.data import Cache
from vglm_train.data.remote.transfer import Failed, read_from, watched
from vglm_train.data.shards.address import redacted

PROGRESS = 2**24  # bytes after which a server has its tries again
LONGEST = 60.0  # seconds between two tries

logger = logging.getLogger(__name__)


class Unreachable(Exception):  # noqa: N818  (counted, like a damaged sample)
    """A file that was given up. `silent`: its server may be down; it did not refuse this file alone."""

    def __init__(self, reason: str, silent: bool = False) -> None:
        super().__init__(reason)
        self.silent = silent


class _Disk(Exception):  # noqa: N818  (an OSError that is no server's)
    """The copy cannot be written."""


def download(address: str, out: BinaryIO, options: Cache, expected: int | None = None) -> None:
    """Write the file to `out`, after what of it is there already, until the server says that it is whole.

    `expected`: bytes, as far as they are known. The result is shorter where the server has no more. Each failure is
    named in the log. Unreachable after the last try; OSError where `out` cannot be written.
    """
    transfer, began = _Transfer(address, out, options, expected), time.monotonic()
    tries, kept = 0, out.seek(0, os.SEEK_END)
    while True:
        try:
            transfer.attempt(last=tries >= options.retries)
        except Failed as failure:
            size = transfer.keep(failure)
            tries, kept = (1, size) if size - kept >= PROGRESS else (tries + 1, kept)
            if failure.final or tries > options.retries:
                after = f" ({tries} tries in {time.monotonic() - began:.1f} s)" if tries > 1 else ""
                raise Unreachable(f"{failure.reason}{after}", silent=not failure.final) from None
            transfer.wait(failure, tries, size)
        except _Disk as full:
            raise full.args[0] from None
        else:
            if tries:
                logger.info("%s: complete after %.1f s", redacted(address), time.monotonic() - began)
            return


def fetch_bytes(address: str, options: Cache) -> bytes:
    """A small remote file. Unreachable after the last try."""
    out = io.BytesIO()
    download(address, out, options)
    return out.getvalue()


class _Transfer:
    """One file on its way."""

    def __init__(self, address: str, out: BinaryIO, options: Cache, expected: int | None) -> None:
        self.address, self.out, self.options, self.expected = address, out, options, expected
        self.tag: str | None = None  # of the version that `out` begins with

    def attempt(self, last: bool) -> None:
        """One connection; Failed where it did not bring all. A file that ends early without a word of how long it is
        is taken as it is at the `last` try only."""
        with read_from(self.address, self.out.seek(0, os.SEEK_END), self.tag, self.options.timeout_s) as part:
            self.out.seek(part.start)
            self.out.truncate()
            self.tag = part.tag
            for chunk in watched(part.chunks, self.options.timeout_s):
                self._write(chunk)
            self._write(b"")
        size = self.out.tell()
        if part.total is not None and size < part.total:
            raise Failed(f"the connection was dropped after {size} of {part.total} bytes")
        if part.total is None and self.expected and size < self.expected and not (last and size):
            raise Failed(f"it ended after {size} of {self.expected} bytes")

    def _write(self, chunk: bytes) -> None:
        try:
            self.out.write(chunk) if chunk else self.out.flush()
        except OSError as error:
            raise _Disk(error) from None

    def keep(self, failure: Failed) -> int:
        """Bytes that the next attempt can go on from."""
        if failure.changed:
            self.out.seek(0)
            self.out.truncate()
            self.tag = None
        self.out.flush()
        return self.out.seek(0, os.SEEK_END)

    def wait(self, failure: Failed, tries: int, size: int) -> None:
        """Exponential backoff with jitter, so that many workers do not come back at once."""
        pause = min(LONGEST, self.options.backoff_s * 2 ** (tries - 1)) * random.uniform(0.5, 1.5)
        pause = max(pause, min(LONGEST, failure.wait))
        have = f"{size} of {self.expected}" if self.expected else f"{size}"
        logger.warning(
            "%s: try %d of %d: %s; %s bytes are here, again in %.1f s",
            redacted(self.address), tries, self.options.retries + 1, failure.reason, have, pause,
        )  # fmt: skip
        time.sleep(pause)
