"""Runs a step as the process that a person would start, and shows its command."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from vglm_train.clinic import told
from vglm_train.clinic.plan import Step
from vglm_train.clinic.state import State
from vglm_train.errors import UserError
from vglm_train.progress import duration

GRACE = 3.0  # seconds in which a terminal's Ctrl-C, which the step has got too, ends it
ROOT = Path(__file__).resolve().parents[2]
STOPS = tuple(  # what people, schedulers and the system send; Windows, which can show the help, lacks some
    number for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGKILL") if (number := getattr(signal, name, None)) is not None
)


class Stopped(Exception):  # noqa: N818  (nobody made a mistake)
    """A step was asked to stop. `status`: of the command."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def run(step: Step, state: State, number: int, titles: Sequence[str], held: int) -> None:
    """Do a step that is not done yet. `number`: from 1; `titles`: of all steps; `held`: a descriptor that keeps the
    folder as long as the step's process lives.

    UserError where it fails: it has printed why. Stopped where it was asked to stop.
    """
    where = f"step {number} of {len(titles)}"
    print(f"\n=== {where}: {step.title}", flush=True)
    if state.is_done(step):
        print(f"$ {shown(step)}\n--- done before, in {duration(state.seconds(step.name))}", flush=True)
        return
    print("\n".join(_left(step, state, number, titles)), flush=True)
    for path in step.clears:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    print(f"$ {shown(step)}", flush=True)
    start = time.monotonic()
    try:
        status = _status(step, held)
        _refuse(status, step, where)
    except BaseException:
        state.spend(step, time.monotonic() - start)
        raise
    if step.loose:
        os.sync()
    seconds = time.monotonic() - start
    state.finish(step, seconds, status=int(status == told.FOUND))
    found = "; it found something, see above" if status else ""
    print(f"--- {where} took {duration(seconds)}{found}", flush=True)


def _left(step: Step, state: State, number: int, titles: Sequence[str]) -> Iterator[str]:
    """What is done, how long that took here, and what is left. How long a step takes is not known before it runs; then
    it says so itself."""
    took, spent = state.seconds(), state.spent.get(step.name)
    yield f"{number - 1} of {len(titles)} steps done" + (f", in {duration(took)} on this machine" if took else "")
    if spent:
        yield f"this one was begun before, and ran for {duration(spent)} then"
    yield f"after it: {', '.join((*titles[number:], 'the verdict'))}"


def _refuse(status: int, step: Step, where: str) -> None:
    """As `run`, by the status of the step's process."""
    number = -status if status < 0 else status - 128
    if number in STOPS:
        if status == -signal.SIGKILL:
            print(f"{where} ({step.title}) was killed: perhaps the machine ran out of memory", file=sys.stderr)
        raise Stopped(128 + number)
    if status and not (step.tells and status == told.FOUND):
        how = f"crashed ({signal.strsignal(-status)})" if status < 0 else f"failed with status {status}"
        raise UserError(
            f"{where} ({step.title}) {how}; it says why above. Mend that and run the same command again: what is done "
            "stays done."
        )


def shown(step: Step) -> str:
    """The command as a person types it."""
    return shlex.join(("vglm", *step.words))


def _status(step: Step, held: int) -> int:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", told.__name__ if step.tells else "vglm_train", *step.words]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, pass_fds=(held,))
    try:
        return process.wait()
    except KeyboardInterrupt as stop:
        number = stop.args[0] if stop.args else signal.SIGINT
        if number != signal.SIGINT:
            process.send_signal(number)
        else:
            _wait(process)
        process.wait()
        raise


def _wait(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:  # it was this process alone that got the signal, or it takes its time
        process.send_signal(signal.SIGINT)
