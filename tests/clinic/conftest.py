"""A made hospital, and a base that has learned nothing."""

from pathlib import Path

import pytest
import torch
from run import runs, speaking

from examples.clinic.make_data import REPORTS, write_hospital
from vglm_train import stages
from vglm_train.config.load import load


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of stage two."""
    folder = tmp_path_factory.mktemp("base")
    config = runs.write_run(folder)
    words = [english for english, _ in REPORTS.values()]
    aligned = speaking.write_bundle(config, folder / "aligned")
    stage = stages.build(load(speaking.write_run(config, aligned, folder, "chatglm", words)))
    torch.manual_seed(2)
    model = stage.model()
    stage.load(model)
    stage.save(folder / "base", model, {"run": "made"})
    return folder / "base"


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten studies of two views."""
    folder = tmp_path_factory.mktemp("made") / "hospital"
    write_hospital(folder, 10, True, seed=0)
    return folder


@pytest.fixture(scope="session")
def salt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same patients are tested each time."""
    path = tmp_path_factory.mktemp("salt") / "salt"
    path.write_bytes(bytes(32))
    return path
