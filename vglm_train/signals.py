"""Signals: Ctrl-C and a scheduler's SIGTERM, and what a process does about them."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


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
