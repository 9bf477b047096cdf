"""The one exception type that is shown to a user without a traceback."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from traceback import walk_tb

WAIT = 5  # seconds for torch to notice a dead worker
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
    """Within it, what torch raises when a loader worker or another rank died becomes a UserError.

    Of a worker this is a RuntimeError from a signal handler, which can come at any line of the run. Who takes a batch
    at that moment may find the worker's socket closed before the worker counts as dead: an EOFError or OSError. The
    RuntimeError then follows, and has to come within this context too.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error).strip()
        if "DataLoader worker" in text or "Pin memory thread" in text:
            raise _dead_worker(text) from error
        if any(sign in text for sign in _LOST):
            raise LostProcess(
                f"another process of this run ended ({text.splitlines()[0]}). If it gave no reason, above or on its "
                "own machine, it was killed. The same command continues from the last checkpoint."
            ) from error
        raise
    except (EOFError, OSError) as error:
        if not any(frame.f_code.co_name == "_try_get_data" for frame, _ in walk_tb(error.__traceback__)):
            raise
        with suppress(RuntimeError):
            time.sleep(WAIT)  # until the signal
        raise _dead_worker(str(error) or "its connection closed") from error


def _dead_worker(reason: str) -> UserError:
    return UserError(
        f"a loader worker died ({reason.splitlines()[0]}): most often memory ran out, or /dev/shm is too small (in a "
        "container: --shm-size). Lower data.workers, or set it to 0 to read without workers."
    )
