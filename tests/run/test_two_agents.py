"""Two torchrun agents, as on two machines, train as one launcher does; one killed, the same commands go on."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from run import runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def start(config: Path, folder: Path, meeting: str) -> list[subprocess.Popen]:
    """Both agents, the same command on each but for its number; `meeting`: how they find each other."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    agents = []
    for number in (0, 1):
        if meeting == "static":
            words = ["--node_rank", str(number), "--master_addr", "127.0.0.1", "--master_port", str(port)]
        else:
            words = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{port}", "--rdzv_id", "test"]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", *words]
        agents.append(runs.start(runs.command(config, folder, 1, launcher=launcher)))
    return agents


def test_to_the_end(config: Path, straight: dict[int, Path], tmp_path: Path) -> None:
    agents = start(config, tmp_path / "run", "c10d")
    said = [runs.finish(agent) for agent in agents]
    assert sum("done: " in text for text in said) == 1, "rank 0 speaks, on one machine"
    assert runs.losses(tmp_path / "run") == runs.losses(straight[2])


@pytest.mark.parametrize(("meeting", "dies"), [("static", 1), ("static", 0), ("c10d", 0)])
def test_one_is_killed(config: Path, straight: dict[int, Path], tmp_path: Path, meeting: str, dies: int) -> None:
    folder = tmp_path / "run"
    agents = start(config, folder, meeting)
    runs.wait_for(folder, 12)
    runs.kill(agents[dies])
    said, _ = agents[1 - dies].communicate(timeout=120)
    assert agents[1 - dies].returncode != 0
    assert 'train.py", line' not in said, said
    if (meeting, dies) == ("static", 1):
        assert said.count("\nerror: another process of this run ended (") == 1
    reached = max(step for step, _, _ in runs.losses(folder))
    assert 12 <= reached < 30
    for agent in start(config, folder, meeting):
        runs.finish(agent)
    assert runs.losses(folder) == runs.losses(straight[2])
