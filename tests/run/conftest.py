"""One made-up data set, uninterrupted runs, and train.py within this process, for all tests of whole runs."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import made_tables
import pytest
import yaml
from safetensors.torch import save_file

from run import runs, speaking, starts
from train import main
from vglm_train import stages
from vglm_train.config.load import load


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


@pytest.fixture
def home(config: Path, tmp_path: Path) -> Path:
    """A folder of its own: data, an image encoder in a file, a vocabulary, and run.yaml."""
    for name in ("train", "val"):
        shutil.copytree(config.parent / name, tmp_path / name)
    shutil.copy(config.parent / "vocab.txt", tmp_path / "vocab.txt")
    document = yaml.safe_load(config.read_text())
    document["data"] |= {"workers": 0, "global_batch": 20}
    document["data"]["train"][0]["shards"] = str(tmp_path / "train")
    document["data"]["validation"][0]["shards"] = str(tmp_path / "val")
    document["model"]["text"]["tokenizer"] = str(tmp_path / "vocab.txt")
    document["evaluate"]["every"] = starts.STEPS
    document["log"]["samples"] = True
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    encoder = stages.build(load(tmp_path / "run.yaml")).model().vision.encoder
    save_file(dict(encoder.state_dict()), tmp_path / "encoder.safetensors")
    document["model"]["vision"]["weights"] = str(tmp_path / "encoder.safetensors")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    return tmp_path


@pytest.fixture
def table(home: Path, speaking_config: dict[str, Path]) -> Path:
    """A home whose run is of stage two, on a table."""
    rows = made_tables.visualglm(made_tables.pictures(home, 30))
    made_tables.write_json(home / "table.json", rows)
    document = yaml.safe_load(speaking_config["causal"].read_text())
    document["data"] |= {"workers": 0, "global_batch": 5, "validation": [], "languages": ["en"]}
    document["data"]["train"] = [{"name": "own", "table": str(home / "table.json")}]
    document["evaluate"] = {}
    (home / "run.yaml").write_text(yaml.safe_dump(document))
    return home
