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


class MissingData(UserError):  # noqa: N818  (not an error in the configuration: the data is not on this machine)
    """Data that is not where the configuration says, as when a recipe is described on another machine."""


class LostProcess(UserError):  # noqa: N818  (it happened to another process)
    """Another process of the run ended first. That one says why, if it could."""


@contextmanager
def ignore_broken_pipe() -> Iterator[None]:
    """Within it, a reader that stops early (`| head`) is no error: what is printed after that goes nowhere."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """Within it, a package that is not installed is a UserError: what needs it, and the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise UserError(f'{what} needs {package}, which is not installed: pip install "vglm_train[{extra}]"') from error


@contextmanager
def explain_dead_processes() -> Iterator[None]:
    """Within it, the RuntimeError that torch raises when a loader worker or another rank died becomes a UserError.

    Torch raises it for a worker from a signal handler, so it can come at any line of the run.
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
