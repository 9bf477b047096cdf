"""Stopped anywhere, the same command goes on and ends in the same result."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from clinic.starts import command, environment, result, start

pytestmark = pytest.mark.slow

MOMENTS = (  # a line that is printed when a step begins, or is in the middle
    "=== step 2 of 8: convert",
    "=== step 3 of 8: split",
    "=== step 5 of 8: choose a recipe",
    "step 4: checkpoint written",
    "=== step 8 of 8: evaluate",
)


def stop_at(line: str, number: signal.Signals, whole: bool, words: list[str], folder: Path) -> tuple[int, str]:
    """Start, wait for a line that begins or holds `line`, and send the signal, to the `whole` group or the command
    alone. Status, and what was said."""
    process = subprocess.Popen(
        words,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said = ""
    for printed in process.stdout:
        said += printed
        if line in printed:
            (os.killpg if whole else os.kill)(process.pid, number)
            break
    rest, _ = process.communicate(timeout=900)
    return process.returncode, said + rest


@pytest.mark.timeout(1800)
def test_killed_at_five_moments(hospital: Path, base: Path, salt: Path, tmp_path: Path) -> None:
    """Everything at once, as by a power cut."""
    words = command(hospital, base, tmp_path / "killed", salt)
    for line in MOMENTS:
        status, said = stop_at(line, signal.SIGKILL, True, words, tmp_path)
        assert line in said, f"it ended before: {said[-2000:]}"
        assert status == -signal.SIGKILL
    last = start(words, tmp_path)
    assert last.returncode == 0, last.stderr
    assert last.stdout.count("--- done before") == 7
    straight = start(command(hospital, base, tmp_path / "straight", salt), tmp_path)
    assert straight.returncode == 0, straight.stderr
    assert result(tmp_path / "killed") == result(tmp_path / "straight")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("number", "whole"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_asked_to_stop(
    number: signal.Signals, whole: bool, hospital: Path, base: Path, salt: Path, tmp_path: Path
) -> None:
    """Ctrl-C reaches every process of a terminal, a scheduler's SIGTERM the first one alone."""
    words = command(hospital, base, tmp_path / "out", salt, "run.length.steps=2000")
    status, said = stop_at("step 4: checkpoint written", number, whole, words, tmp_path)
    assert status == 128 + number, said[-2000:]
    assert "Traceback" not in said
    assert "run the same command again" in said
    checkpoints = tmp_path / "out" / "run" / "checkpoints"
    assert any(checkpoints.iterdir())


def test_a_second_start_waits_for_nobody(hospital: Path, base: Path, salt: Path, tmp_path: Path) -> None:
    """Of two starts in one folder, the second says so. So it does where only the first process of a start was killed,
    while its step goes on."""
    words = command(hospital, base, tmp_path / "out", salt)
    process = subprocess.Popen(
        words, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert any("=== step 1" in line for line in process.stdout)
        while not psutil.Process(process.pid).children():
            time.sleep(0.01)
        process.kill()  # the step's process lives
        process.wait()
        again = start(words, tmp_path)
        assert again.returncode == 2
        assert "is at work; wait or stop it" in again.stderr
    finally:
        os.killpg(process.pid, signal.SIGKILL)
