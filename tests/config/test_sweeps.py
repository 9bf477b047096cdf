"""The sweeps of configs/sweeps: what W&B's agent would run is a run of this program, for every value."""

import os
import subprocess
from itertools import product
from pathlib import Path

import pytest
import yaml
from shipped import SWEEPS, reader

from vglm_train.config.check import check
from vglm_train.config.metric_meanings import best_of
from vglm_train.config.presets import presets
from vglm_train.report.panels import ASKED


@pytest.fixture
def read(tmp_path):
    return reader(tmp_path)


def words_of(command: list[str], words: list[str], folder: Path) -> list[str]:
    """What `vglm` gets, from the agent's command for these words."""
    (folder / "vglm").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (folder / "vglm").chmod(0o755)
    line = [part for each in command for part in (words if each == "${args_no_hyphens}" else [each])]
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "WANDB_RUN_ID": "chosen"}
    return subprocess.run(line, capture_output=True, text=True, env=environment, check=True).stdout.splitlines()


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_run_of_a_sweep_is_one_of_this_program(path, tmp_path, read):
    sweep = yaml.safe_load(path.read_text("utf-8"))
    assert (sweep["metric"]["goal"], best_of(sweep["metric"]["name"])) == ("maximize", "max")
    names = list(sweep["parameters"])
    seen = []
    for values in product(*(sweep["parameters"][name]["values"] for name in names)):
        given = [f"{name}={value}" for name, value in zip(names, values)]
        command, preset, *overrides = words_of(sweep["command"], given, tmp_path)
        assert command == "train"
        assert overrides[-len(given) :] == given
        config = read(presets()[preset], overrides)
        check(config, world=1)
        assert config.run.folder == f"runs/{path.stem}/chosen"
        assert config.log.wandb.mode == "online"
        seen.append(config)
    assert len({str(config) for config in seen}) == len(seen) > 2
    asked = {name for name in ASKED if len({_value(config, name) for config in seen}) > 1}
    assert asked, "the workspace that compares runs shows what was asked"


def _value(config: object, name: str) -> object:
    for part in name.split("."):
        config = getattr(config, part, None)
    return config


def test_sweeps_are_no_presets():
    assert SWEEPS
    assert not {path.stem for path in SWEEPS} & presets().keys()
