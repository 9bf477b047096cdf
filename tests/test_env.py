"""`python -m vglm_train.env` on this machine, and on ones that lack something."""

import subprocess
import sys
import tomllib
from pathlib import Path

import torch
import transformers

from vglm_train import env

ROOT = Path(__file__).resolve().parents[1]


def test_the_command_prints_versions_and_this_machine():
    result = subprocess.run(
        [sys.executable, "-m", "vglm_train.env"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    rows = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert rows["torch"] == torch.__version__
    assert rows["transformers"] == transformers.__version__
    assert rows["python"].startswith("3.")
    assert rows["RAM"].endswith("GiB")
    assert result.returncode == ("missing:" in result.stdout)


def test_every_declared_dependency_is_listed():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    assert {requirement.partition(">")[0] for requirement in declared} == {"torch", *env.BACKBONE}


def test_a_missing_package_says_how_to_get_it():
    assert env.installed("no-such-package") == "missing: pip install no-such-package"
    assert env.installed("numpy")[0].isdigit()


def test_a_machine_without_gpus_is_told_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("PATH", "")
    gpu = dict(env.environment())["GPU"]
    assert gpu.startswith("none that torch can use (torch is ")
    assert gpu.endswith("driver not found (no nvidia-smi that works)")


def test_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    rows = dict(env.environment())
    assert rows["torch"].startswith("missing: https://pytorch.org")
    assert "no torch" in rows["GPU"]
