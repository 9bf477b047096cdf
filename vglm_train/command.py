"""How a command ends: its exit status, and one line where a person has something to mend or has stopped it."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from vglm_train.errors import UserError, unread

AGAIN = "stopped; nothing half-written was left, run the same command again"


def leave_at_once() -> None:
    """From here until `answered`, Ctrl-C ends this process with one line and status 130.

    For the seconds of imports before a command's own code runs. Nothing is begun that would have to be tidied up, and
    an exception in the middle of torch's import would be shown as a traceback from wherever it was.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as under nohup, or is ours
        signal.signal(signal.SIGINT, _leave)


def answered(work: Callable[[], int]) -> int:
    """The exit status of a command that does `work`: what it returns; 2 for a person's mistake, or a full disk;
    128 + signal if it is stopped.
    """
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with unread(), heeding_sigterm():
            return work()
        return 0  # whoever reads has read enough
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder that may not be written
        told = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        print(f"error: {told}; mend that and run it again, nothing half-written was left", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(AGAIN, file=sys.stderr)
        return status_of(stop)


@contextmanager
def heeding_sigterm() -> Iterator[None]:
    """Within it a scheduler's SIGTERM is what Ctrl-C is, a KeyboardInterrupt, which then holds the signal's number:
    what is being written is finished or removed, and workers are ended, where the process would be gone at once.
    """
    free = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if free:
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        if free:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def postponed() -> Iterator[None]:
    """Within it Ctrl-C and SIGTERM wait, and have their effect at its end.

    For a fork: what is raised by the callbacks that surround one is printed and forgotten, an interrupt as well.
    """
    came: list[int] = []
    heeded = [number for number in (signal.SIGINT, signal.SIGTERM) if _is_heeded(number)]
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


def _is_heeded(number: int) -> bool:
    """Whether this thread may say what a signal does, and it does something."""
    here = threading.current_thread() is threading.main_thread()
    return here and signal.getsignal(number) not in (None, signal.SIG_IGN)


def status_of(stop: KeyboardInterrupt) -> int:
    """The exit status of a process that was stopped: 128 + signal."""
    return 128 + (stop.args[0] if stop.args else signal.SIGINT)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a launcher that repeats it would interrupt the tidying up
    raise KeyboardInterrupt(number)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"stopped before anything was begun\n")
    os._exit(128 + number)
