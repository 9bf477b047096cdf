"""A run that stands still: who does not arrive is named, with what it does, and the processes end."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vglm_train.distributed import Ranks
from vglm_train.engine.watch import STATUS, Watch

HERE = Path(__file__).parent


def start(folder: Path, pipe: str, step: int = 7) -> list[subprocess.Popen]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    shared = {**os.environ, "PYTHONPATH": path, "DS_ACCELERATOR": "cpu", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    command = [sys.executable, str(HERE / "watched_ranks.py"), str(folder), pipe, str(step)]
    return [
        subprocess.Popen(
            command,
            env={**shared, "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[str]:
    """A named pipe that somebody holds open and nobody writes to."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR)
    yield str(path)
    os.close(descriptor)


@pytest.mark.parametrize(
    "step", [pytest.param(7, marks=pytest.mark.slow), 8]
)  # 8: it reads ahead, and the other still logs the step before
def test_a_rank_that_waits_for_data_is_named(tmp_path: Path, pipe: str, step: int) -> None:
    ranks = start(tmp_path / "run", pipe, step)
    said = ranks[0].communicate(timeout=120)[1]
    ranks[1].communicate(timeout=120)
    assert ranks[0].returncode == ranks[1].returncode == STATUS
    told = said[said.index("ERROR: step 7 has stood still for 4 s.") :].splitlines()
    assert told[1].startswith("  rank 1: waiting for data (on ")
    assert told[2].startswith("  rank 0: counting rows and targets, waiting for other ranks (on ")
    stacks = tmp_path / "run" / "stalls"
    assert "read_bytes" in (stacks / f"step-{step:08d}" / "rank-1.txt").read_text()
    assert "all_reduce" in (stacks / "step-00000007" / "rank-0.txt").read_text()


def test_a_frozen_rank_gives_no_sign(tmp_path: Path) -> None:
    ranks = start(tmp_path, "frozen")
    said = ranks[0].communicate(timeout=120)[1]
    ranks[1].send_signal(signal.SIGKILL)
    ranks[1].communicate(timeout=120)
    assert ranks[0].returncode == STATUS
    assert "  rank 1: no sign; the process or its machine does not answer\n" in said


class Looks(threading.Event):
    """The watch's own event, which counts how often the watch looks."""

    def __init__(self) -> None:
        super().__init__()
        self.number = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        self.number.release()
        return super().wait(0.001)


@pytest.mark.parametrize(("limit", "doing"), [(1e-9, None), (60.0, "computing"), (None, "computing")])
def test_nothing_is_told_of_what_may_take_long(tmp_path: Path, limit: float | None, doing: str | None) -> None:
    watch = Watch(tmp_path, Ranks(), limit)
    watch._over = looks = Looks()
    watch.note(doing, 1)
    with watch:
        for _ in range(20):
            looks.number.acquire()
    assert list(tmp_path.iterdir()) == []
