"""What a command is called, and how it ends: its exit status, and one line where a person made a mistake."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from vglm_train.errors import UserError, ignore_broken_pipe
from vglm_train.signals import sigterm_interrupts, status_of

AGAIN = "stopped; nothing half-written was left, run the same command again"
ENDED = "stopped"  # of a server, which is ended so
ELSEWHERE = "End what else runs on the card (nvidia-smi names it), or set DS_ACCELERATOR=cpu."
_called_as: ContextVar[str | None] = ContextVar("called_as", default=None)


def program(module: str) -> str:
    """What a person types to run `module`: `vglm chat` where it was called so, else `python -m module`."""
    return _called_as.get() or f"python -m {module}"


@contextmanager
def called_as(words: str) -> Iterator[None]:
    """Within it, `program` gives `words`."""
    before = _called_as.set(words)
    try:
        yield
    finally:
        _called_as.reset(before)


def run_command(work: Callable[[], int], stopped: str = AGAIN) -> int:
    """Do `work` and return the command's exit status.

    That is what `work` returns, 2 for a person's mistake or a full disk, or 128 + signal if it was stopped, which
    it says by `stopped`.
    """
    try:
        with ignore_broken_pipe(), sigterm_interrupts():
            return work()
        return 0  # whoever reads has read enough
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder that may not be written
        reason = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        print(f"error: {reason}; mend that and run it again, nothing half-written was left", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        print(f"error: the GPU's memory is full: {error} {ELSEWHERE}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(stopped, file=sys.stderr)
        return status_of(stop)
