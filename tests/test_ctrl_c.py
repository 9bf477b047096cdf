"""Commands that are stopped or cannot go on: one line and a status. Training: from its first import on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vglm_train.command import ENDED, run_command
from vglm_train.errors import UserError
from vglm_train.signals import deferred_signals, sigterm_interrupts, status_of

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to know what has been imported")
def test_ctrl_c_while_torch_is_being_imported() -> None:
    command = [sys.executable, "train.py", "configs/photos.yaml"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert said.startswith("stopped")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("what", "status", "said"),
    [
        (UserError("x: y"), 2, "error: x: y\n"),
        (OSError(28, "No space left on device", "z"), 2, "error: z: No space left on device; mend that"),
        (KeyboardInterrupt(), 130, "stopped; nothing half-written was left"),
    ],
)
def test_how_it_ends(what: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise what

    assert run_command(work) == status
    assert capsys.readouterr().err.startswith(said)


def test_a_server_is_ended_so(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise KeyboardInterrupt

    assert run_command(work, ENDED) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_its_own_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: 1) == 1
    assert capsys.readouterr().err == ""


def test_ctrl_c_while_a_rank_waits_to_say_its_mistake() -> None:
    """The main rank has spoken; the others would only after some seconds."""
    code = "import os, threading, train\nthreading.Timer(1, os.kill, (os.getpid(), 2)).start()\n"
    code += "raise SystemExit(train.main(['none.yaml']))"
    environment = {**os.environ, "RANK": "1", "WORLD_SIZE": "2"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (130, b"")


@pytest.fixture
def as_started() -> Iterator[None]:
    """Signals do what they do in a new process, whatever a run within this one has left."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler or signal.SIG_DFL)


@pytest.mark.usefixtures("as_started")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_while_processes_are_forked(number: signal.Signals) -> None:
    """Python forgets what is raised in a fork's callbacks: the interrupt must come after it, and must come."""
    seen = []

    def fork() -> None:
        with sigterm_interrupts(), deferred_signals():
            signal.raise_signal(number)
            time.sleep(0.05)
            seen.append("done")
        seen.append("too far")

    with pytest.raises(KeyboardInterrupt) as stop:
        fork()
    assert seen == ["done"]
    assert status_of(stop.value) == 128 + number
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred_signals():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
