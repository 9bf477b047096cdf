"""Stage two under a kill: the same command goes on, and every logged number is the same, bit for bit."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from run import runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module", autouse=True)
def no_java(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """METEOR's program takes 15 s to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path_factory.mktemp("nothing")))
        yield


@pytest.fixture(scope="module")
def spoken(speaking_config: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Run folders of runs that nobody disturbed, by number of processes."""
    folders = {}
    for processes in (1, 2):
        folders[processes] = tmp_path_factory.mktemp("spoken") / "run"
        runs.finish(runs.start(runs.command(speaking_config["chatglm"], folders[processes], processes)))
    return folders


@pytest.mark.parametrize("processes", [1, 2])
def test_asked_to_stop(
    speaking_config: dict[str, Path], spoken: dict[int, Path], tmp_path: Path, processes: int
) -> None:
    arguments = runs.command(speaking_config["chatglm"], tmp_path / "run", processes)
    process = runs.start(arguments)
    runs.wait_for(tmp_path / "run", 7)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "the same command continues" in output
    runs.finish(runs.start(arguments))
    assert runs.losses(tmp_path / "run") == runs.losses(spoken[processes])


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_ten_moments(
    speaking_config: dict[str, Path], spoken: dict[int, Path], tmp_path: Path, processes: int
) -> None:
    arguments = runs.command(speaking_config["chatglm"], tmp_path / "run", processes)
    runs.kill_at_ten_moments(arguments, tmp_path / "run", 10 + processes)
    runs.finish(runs.start(arguments))
    assert runs.losses(tmp_path / "run") == runs.losses(spoken[processes])
    assert not list((tmp_path / "run" / "checkpoints").glob("*.tmp-*"))
    assert (tmp_path / "run" / "bundle" / "trained.safetensors").exists()
