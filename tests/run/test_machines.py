"""Machines that come and go: agents of `vglm elastic`, as on a machine each, of which one is killed, frozen, told to
leave or added. Nobody types a command, and the run is the undisturbed one."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from run import runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = 60
# No dropout, whose masks go by rank. What rounding leaves of zero gradients is no step of full size (eps)
SAME = ("model.qformer.dropout=0", "optim.eps=1e-4", "data.workers=0")
LONG = (
    f"run.length={{steps: {STEPS}}}", "evaluate.every=null", "data.validation=[]", "checkpoint.every=2",
    "log.samples=true", *SAME,
)  # fmt: skip
NOISE = 2e-4  # relative: sums of fp32 in another order, through sixty updates; 1e-6 was seen


class Cluster:
    """A meeting point and agents, each in a session of its own."""

    def __init__(
        self, config: Path, folder: Path, nodes: str, overrides: tuple[str, ...], pace: dict[str, str]
    ) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.config, self.folder, self.nodes, self.overrides, self.pace = config, folder, nodes, overrides, pace
        self.agents: list[subprocess.Popen] = []
        self.host = runs.start([sys.executable, "-m", "vglm_train.elastic", "--meeting-point", str(self.port)])

    def add(self, processes: int) -> None:
        words = ["--nodes", self.nodes, "--processes", str(processes), "--meet", f"127.0.0.1:{self.port}"]
        words += ["--address", "127.0.0.1", "--grace", "40", str(self.config), f"run.folder={self.folder}"]
        command = [sys.executable, "-m", "vglm_train.elastic", *words, *self.overrides]
        with (self.folder.parent / f"agent-{len(self.agents)}.txt").open("w") as said:
            variables = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", **self.pace}
            self.agents.append(
                subprocess.Popen(
                    command, cwd=runs.ROOT, env=variables, stdout=said, stderr=said, start_new_session=True
                )
            )

    def said(self, number: int) -> str:
        return (self.folder.parent / f"agent-{number}.txt").read_text()

    def statuses(self) -> list[int]:
        return [agent.wait(timeout=600) for agent in self.agents]

    def step(self) -> int:
        """The last one that was logged."""
        metrics = self.folder / "metrics.jsonl"
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)

    def starts(self) -> list[str]:
        """What the run said at each of its starts: with which checkpoint it went on."""
        log = self.folder / "log.txt"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if "continues from step-" in line or line.endswith("a new run")]

    def wait(self, condition: Callable[[], bool], seconds: float = 400) -> float:
        """Until it holds; how long that took."""
        start = time.monotonic()
        while not condition():
            assert time.monotonic() < start + seconds, "\n\n".join(map(self.said, range(len(self.agents))))
            time.sleep(0.05)
        return time.monotonic() - start

    def close(self) -> None:
        for process in (*self.agents, self.host):
            if process.poll() is None:
                runs.kill(process)


@pytest.fixture
def cluster(config: Path, tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Makes a cluster whose disk is slow, so that there is time to meddle on a fast machine too."""
    with contextlib.ExitStack() as stack:

        def make(nodes: str, *overrides: str) -> Cluster:
            made = Cluster(config, tmp_path / "run", nodes, overrides or LONG, runs.slow_disk(tmp_path / "slow"))
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture(scope="module")
def undisturbed(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By one process."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    runs.finish_here(config, folder, *LONG)
    return folder


def compare(found: Path, wanted: Path) -> None:
    """Every step read the same samples, each epoch each once, and has the same losses and gradient norm."""
    ours, theirs = runs.consumed(found), runs.consumed(wanted)
    assert list(ours) == list(range(1, STEPS + 1))
    assert ours == theirs
    keys = Counter(key for step in ours.values() for key in step)
    assert set(keys.values()) <= {STEPS * 8 // 100, STEPS * 8 // 100 + 1}
    rows, expected = runs.train_rows(found), runs.train_rows(wanted)
    assert list(rows) == list(expected)
    for step, row in expected.items():
        for name in ("train/loss", "train/loss_itc", "train/loss_itm", "train/loss_itg", "train/grad_norm"):
            assert rows[step][name] == pytest.approx(row[name], rel=NOISE), (step, name)


@pytest.mark.parametrize("processes", [(1, 1, 1, 1), (3, 2, 2, 3)], ids=["3-2-3", "up-to-8"])
def test_one_is_killed_and_one_is_added(cluster, undisturbed: Path, processes: tuple[int, ...]) -> None:
    """Worlds of 3, 2 and 3 processes, or of 7, then 4 or 5, then 7 or 8: most do not divide the 8 rows of a step."""
    agents = cluster("2:4")
    for number in processes[:3]:
        agents.add(number)
    agents.wait(lambda: agents.step() >= 9)
    runs.kill(agents.agents[random.Random(processes[0]).randrange(3)])
    killed = agents.step()
    lost = agents.wait(lambda: len(agents.starts()) == 2)
    agents.wait(lambda: agents.step() > killed)
    agents.add(processes[3])
    gained = agents.wait(lambda: len(agents.starts()) == 3)
    print(f"a killed machine costs {lost:.0f} s, an added one {gained:.0f} s")
    assert sorted(agents.statuses()) == [-signal.SIGKILL, 0, 0, 0]
    compare(agents.folder, undisturbed)


@pytest.mark.parametrize("how", ["notice", "agent-killed"])
def test_one_leaves_and_all_save_at_once(cluster, undisturbed: Path, how: str) -> None:
    """Slurm's SIGUSR1 to one agent, or its death, of which its process has to hear: the other goes on from there."""
    agents = cluster("1:2", *LONG, "checkpoint.every=1000", "log.every=1")
    for number in range(2):
        agents.add(number + 1)
    agents.wait(lambda: agents.step() >= 5)
    agents.agents[1].send_signal(signal.SIGUSR1 if how == "notice" else signal.SIGKILL)
    wanted = 128 + signal.SIGUSR1 if how == "notice" else -signal.SIGKILL
    assert agents.agents[1].wait(timeout=100) == wanted
    agents.wait(lambda: len(agents.starts()) == 2)
    saved = int((agents.folder / "checkpoints" / "latest").read_text().removeprefix("step-"))
    assert 5 <= saved < STEPS
    assert agents.starts()[1].endswith(f"continues from step-{saved:08d}")
    assert agents.agents[0].wait(timeout=600) == 0
    compare(agents.folder, undisturbed)


def test_a_frozen_process_is_named_and_replaced(cluster, undisturbed: Path) -> None:
    agents = cluster("2:2", *LONG, "engine.stall=10")
    for _ in range(2):
        agents.add(1)
    agents.wait(lambda: agents.step() >= 9)
    ranks = [psutil.Process(agent.pid).children()[0] for agent in agents.agents]
    frozen = next(each for each in ranks if each.environ()["RANK"] == "1")
    frozen.suspend()
    assert agents.statuses() == [0, 0]
    assert "  rank 1: no sign; the process or its machine does not answer\n" in (agents.folder / "log.txt").read_text()
    compare(agents.folder, undisturbed)


def test_a_machine_without_power_is_missed(cluster, undisturbed: Path) -> None:
    """Agent and process freeze: no connection breaks, and the other process waits in a collective."""
    agents = cluster("1:2")
    for _ in range(2):
        agents.add(1)
    agents.wait(lambda: agents.step() >= 9)
    ranks = [psutil.Process(agent.pid).children()[0] for agent in agents.agents]
    lost = next(number for number, each in enumerate(ranks) if each.environ()["RANK"] == "1")  # 0 holds the folder
    for each in (psutil.Process(agents.agents[lost].pid), ranks[lost]):
        each.suspend()
    took = agents.wait(lambda: len(agents.starts()) == 2)
    print(f"a machine without power costs {took:.0f} s")
    assert agents.agents[1 - lost].wait(timeout=600) == 0
    assert "a machine is lost" in agents.said(1 - lost)
    compare(agents.folder, undisturbed)


def test_a_mistake_is_not_tried_again(cluster) -> None:
    """It is said once on each machine at most, and all agents end."""
    agents = cluster("2:2", *LONG, "data.train.0.shards=nowhere")
    for _ in range(2):
        agents.add(1)
    statuses = agents.statuses()
    assert 2 in statuses
    assert set(statuses) <= {1, 2}
    for number in range(2):
        said = agents.said(number)
        assert said.count("restarts are left") <= 2
        assert "Traceback" not in said, said
    assert "nowhere" in agents.said(statuses.index(2))
