"""Signals: Ctrl-C and a scheduler's SIGTERM, and what a process does about them."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopOnSignal:
    """Turns SIGTERM, SIGINT or SIGUSR1 (Slurm's warning) into 'finish the step, save, leave'.

    A launcher passes on what its process group got already, so the same signal often comes twice. Only a SIGINT
    that comes after PATIENCE seconds ends the process at once.
    """

    SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
    PATIENCE = 5.0

    def __init__(self) -> None:
        self.received: int | None = None
        self._first = 0.0
        for number in self.SIGNALS:
            signal.signal(number, self._note)

    def requested(self) -> bool:
        """Whether one of the signals has come."""
        return self.received is not None

    def release(self) -> int | None:
        """Give the signals their usual effect again; returns the one that had come."""
        for number in self.SIGNALS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        return self.received

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._first = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._first > self.PATIENCE:
            raise KeyboardInterrupt


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Within it SIGTERM raises KeyboardInterrupt as Ctrl-C does, with the signal's number as its argument.

    Without it a scheduler's SIGTERM ends the process at once. With it, what is being written is finished or removed,
    and workers are ended.
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
def deferred_signals() -> Iterator[None]:
    """Within it Ctrl-C and SIGTERM wait, and have their effect at its end.

    For a fork: Python prints and forgets what the callbacks around a fork raise, an interrupt as well.
    """
    came: list[int] = []
    handled = [number for number in (signal.SIGINT, signal.SIGTERM) if _is_handled(number)]
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


def _is_handled(number: int) -> bool:
    """Whether this thread may set what a signal does, and the signal does something."""
    main_thread = threading.current_thread() is threading.main_thread()
    return main_thread and signal.getsignal(number) not in (None, signal.SIG_IGN)


def starts_again() -> bool:
    """Whether a launcher, torchrun's agent, starts this process and the others again when one of them fails."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def status_of(stop: KeyboardInterrupt) -> int:
    """The exit status of a process that was stopped: 128 + signal."""
    return 128 + (stop.args[0] if stop.args else signal.SIGINT)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a launcher that repeats it would interrupt the tidying up
    raise KeyboardInterrupt(number)
