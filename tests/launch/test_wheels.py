"""The folder of wheels for machines without internet, and what is made of it."""

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
SCRIPT = LAUNCH / "wheels.sh"


def script(*words: object) -> subprocess.CompletedProcess[str]:
    command = [str(word) for word in (SCRIPT, *words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=3000, check=False)


def test_its_help_says_how_it_is_called():
    done = script("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Make a folder of wheels")
    assert "--cuda" in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "give --out FOLDER"),
        (["--out"], "--out needs a value"),
        (["--out", LAUNCH], "is there already"),
        (["--out", "new", "--python", "python2.4"], "python2.4 is not here"),
        (["--wheel", "x"], "launch/wheels.sh --out FOLDER"),
    ],
)
def test_mistakes(words, says):
    done = script(*words)
    assert done.returncode == 2
    assert says in done.stderr
    assert not Path("new").exists()


def test_another_python_is_refused(tmp_path):
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\necho 3.9\n")
    old.chmod(0o755)
    done = script("--out", tmp_path / "new", "--python", old)
    assert done.returncode == 2
    assert "is Python 3.9; this project runs on 3.11 and 3.12" in done.stderr
    assert not (tmp_path / "new").exists()


def steps_of_the_image(wheels: Path, python: Path) -> list[str]:
    """The Dockerfile's commands on this machine, but for the user that it makes."""
    text = (LAUNCH / "Dockerfile").read_text()
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE)
    steps = [step for step in re.findall(r"^RUN (.+)$", text, re.MULTILINE) if not step.startswith("useradd")]
    return [
        step.replace("python -m", f"{python} -m").replace("/wheels", str(wheels)).replace("$EXTRAS", extras)
        for step in steps
    ]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_image_is_made_of_the_folder_without_an_index(tmp_path):
    done = script("--out", tmp_path / "wheels", "--python", sys.executable)
    assert done.returncode == 0, done.stderr
    check = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path / "wheels", check=False)
    assert check.returncode == 0
    venv.create(tmp_path / "image", with_pip=True)
    python = tmp_path / "image" / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHONPATH"))}
    environment["PIP_CONFIG_FILE"] = os.devnull
    (step,) = steps_of_the_image(tmp_path / "wheels", python)
    subprocess.run(["bash", "-c", step], env=environment, check=True, timeout=1800)
    assert not (tmp_path / "wheels").exists(), "the image does not keep them"
    vglm = subprocess.run(
        [tmp_path / "image" / "bin" / "vglm", "train", "lavis_stage1", "--check"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert vglm.returncode == 0, vglm.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here: the unit was not checked")
def test_the_unit_is_one(tmp_path):
    unit = tmp_path / "vglm-serve.service"
    unit.write_text((LAUNCH / unit.name).read_text().replace("/opt/vglm/bin/vglm", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
