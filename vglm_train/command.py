"""How a command ends: its exit status, and one line where a person has something to mend or has stopped it."""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from vglm_train.errors import UserError, unread
from vglm_train.signals import heeding_sigterm, status_of

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


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"stopped before anything was begun\n")
    os._exit(128 + number)
