"""One made-up data set, uninterrupted runs, and train.py within this process, for all tests of whole runs."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

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
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each start as from a fresh shell, but for the process group, which DeepSpeed cannot do without once it had one.

    Afterwards the log is as tests of other packages expect it.
    """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    with patch.dict(os.environ, {"DS_ACCELERATOR": "cpu"}):
        for name in names:
            os.environ.pop(name, None)
        monkeypatch.setattr("vglm_train.distributed.stop", lambda: None)
        yield
    logger = logging.getLogger("vglm_train")
    logger.propagate = True
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Start train.py with these words; what follows `error: `, which is the last it says."""

    def start(*words: object) -> str:
        assert main([str(word) for word in words]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert "Traceback" not in said.err
        before, _, error = said.err.partition("error: ")
        assert before == "" or before.endswith("\n")
        assert "error: " not in error
        return error.removesuffix("\n")

    return start
