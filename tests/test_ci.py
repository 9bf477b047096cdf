"""The hosted checks run what a person runs before anything lands."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def test_the_hosted_workflow_runs_the_same_gates():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    job = workflow["jobs"]["gates"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    low, high = re.findall(r"3\.(\d+)", (ROOT / "pyproject.toml").read_text("utf-8").split("requires-python")[1])[:2]
    assert job["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in range(int(low), int(high))]


def test_the_gates_are_targets_that_exist():
    targets = re.findall(r"^make (\S+)$", (ROOT / ".ci/run").read_text("utf-8"), re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert "check" in targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
