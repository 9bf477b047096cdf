"""One made-up data set and its uninterrupted runs for all tests of whole runs."""

from pathlib import Path

import pytest

from run import runs


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
