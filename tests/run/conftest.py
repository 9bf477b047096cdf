"""One made-up data set, uninterrupted runs, and train.py within this process, for all tests of whole runs."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from run import runs, speaking
from train import main


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_run(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def straight(config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Run folders of runs that nobody disturbed, by number of processes."""
    folders = {}
    for processes in (1, 2):
        folders[processes] = tmp_path_factory.mktemp("straight") / "run"
        runs.finish(runs.start(runs.command(config, folders[processes], processes)))
    return folders


@pytest.fixture(scope="session")
def aligned(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage-one bundle."""
    return speaking.write_bundle(config, tmp_path_factory.mktemp("aligned") / "bundle")


@pytest.fixture(scope="session")
def speaking_config(config: Path, aligned: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stage-two runs by family of their language model."""
    folder = tmp_path_factory.mktemp("speaking")
    return {family: speaking.write_run(config, aligned, folder, family) for family in speaking.FAMILIES}


@pytest.fixture
def alone() -> Iterator[None]:
    """Starts within this process."""
    with runs.alone():
        yield


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Start train.py with these words; what follows `error: `, which is the last it says.

    `--check` must say the same before it. `absent`: what it reports instead, since the machine that trains may have
    it. `only_running`: why it cannot know, for what shows only while a run goes on.
    """

    def start(*words: object, absent: object = None, only_running: str = "") -> str:
        if absent is not None:
            assert main(["--check", *map(str, words)]) == 0
            reported = [line for line in capsys.readouterr().out.splitlines() if "not here" in line]
            assert any(str(absent) in line for line in reported), reported
        elif "--check" not in words and not only_running:
            checked = start("--check", *words)
            assert start(*words, only_running="--check has said it") == checked
            return checked
        assert main([str(word) for word in words]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert "Traceback" not in said.err
        before, _, error = said.err.partition("error: ")
        assert before == "" or before.endswith("\n")
        assert "error: " not in error
        return error.removesuffix("\n")

    return start
