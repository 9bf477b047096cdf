"""The one exception type that is shown to a user without a traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_LOST = ("closed by peer", "reset by peer", "Broken pipe", "ncclRemoteError")  # gloo, NCCL


class UserError(Exception):
    """A mistake a person can mend.

    The message names the file, field or record, says what was wrong and what to do.
    Entry points print it as one line and exit with status 2.
    """


class Absent(UserError):  # noqa: N818  (no fault of what was written: it is not on this machine)
    """Data that is not where the configuration says, as when a recipe is read elsewhere."""


class LostProcess(UserError):  # noqa: N818  (what happened to another process, not here)
    """Another process of the run ended first. What that one says, if it could, is the reason."""


@contextmanager
def unread() -> Iterator[None]:
    """Within it, a reader that has read enough (`| head`) is no error: what is still printed goes nowhere."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def explained() -> Iterator[None]:
    """Within it, a RuntimeError by which torch tells that a loader worker or another rank died is a UserError.

    The notice about a worker comes from a signal handler, so at any line of the run.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error).strip()
        if "DataLoader worker" in text:
            raise UserError(
                f"a loader worker died ({text.splitlines()[0]}): most often memory ran out, or /dev/shm is too small "
                "(in a container: --shm-size). Lower data.workers, or set it to 0 to read without workers."
            ) from error
        if any(sign in text for sign in _LOST):
            raise LostProcess(
                f"another process of this run ended ({text.splitlines()[0]}). If it gave no reason, above or on its "
                "own machine, it was killed. The same command continues from the last checkpoint."
            ) from error
        raise
