"""The folder of wheels for machines without internet, and what is made of it."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from functools import partial
from pathlib import Path

import pytest
from first_run import Vglm, run, train_on_ten_pictures

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


def of_the_image(instruction: str) -> list[str]:
    """What stands behind an instruction of the Dockerfile."""
    return re.findall(rf"^{instruction} (.+)$", (LAUNCH / "Dockerfile").read_text(), re.MULTILINE)


def steps_of_the_image(wheels: Path, python: Path) -> list[str]:
    """The Dockerfile's commands on this machine, but for the user that it makes."""
    (extras,) = [value for value in of_the_image("ARG") if value.startswith("EXTRAS=")]
    return [
        step.replace("python -m", f"{python} -m").replace("/wheels", str(wheels)).replace("$EXTRAS", extras[7:])
        for step in of_the_image("RUN")
        if not step.startswith("useradd")
    ]


@pytest.mark.skipif(shutil.which("useradd") is None or os.geteuid() != 0, reason="only root makes the image's user")
def test_the_user_of_the_image_is_made(tmp_path):
    (step,) = [step for step in of_the_image("RUN") if step.startswith("useradd ")]
    for folder in ("etc", "home"):
        (tmp_path / folder).mkdir()
    for name in ("passwd", "group", "shadow", "gshadow"):
        (tmp_path / "etc" / name).touch()
    subprocess.run(["useradd", "--prefix", tmp_path, *step.split()[1:]], check=True, timeout=60)
    (user,) = of_the_image("USER")
    assert (tmp_path / "home" / user).is_dir()
    assert (tmp_path / "etc/passwd").read_text().startswith(f"{user}:")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wheels for this interpreter."""
    folder = tmp_path_factory.mktemp("made") / "wheels"
    done = script("--out", folder, "--python", sys.executable)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A folder with nothing in it."""
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The interpreter of an environment with pip alone."""
    venv.create(tmp_path / "environment", with_pip=True)
    return tmp_path / "environment" / "bin" / "python"


def vglm_of(python: Path, cwd: Path) -> Vglm:
    return partial(run, python.parent / "vglm", cwd=cwd, hidden=("PIP_",))


def install(python: Path, wheels: Path, source: str, *words: str) -> None:
    """`words` from the folder alone, or from pip's index with only this project's wheel from the folder."""
    pip = (python, "-m", "pip", "install", "-q")
    if source == "folder":
        run(
            "env", f"PIP_CONFIG_FILE={os.devnull}", *pip, "--no-index", "--find-links", wheels, *words, hidden=("PIP_",)
        )
    else:
        (own,) = wheels.glob("vglm_train-*.whl")
        run(*pip, *(word.replace("vglm_train", str(own)) for word in words))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_image_is_made_of_the_folder_without_an_index(wheels, tmp_path, python, empty):
    """Every RUN line of the Dockerfile but the one above, and what a container of it starts with."""
    shutil.copytree(wheels, tmp_path / "wheels", copy_function=os.link)
    check = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path / "wheels", check=False)
    assert check.returncode == 0
    for step in steps_of_the_image(tmp_path / "wheels", python):
        run("env", f"PIP_CONFIG_FILE={os.devnull}", "bash", "-c", step, hidden=("PIP_",))
    assert not (tmp_path / "wheels").exists(), "the image does not keep them"
    assert of_the_image("ENTRYPOINT") == ['["vglm"]']
    assert "usage: vglm" in run(python.parent / "vglm", *json.loads(of_the_image("CMD")[0]), cwd=empty)
    vglm_of(python, empty)("train", "lavis_stage1", "--check")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("source", ["folder", "index"])
def test_an_empty_environment_trains(wheels, python, empty, source):
    install(python, wheels, source, "vglm_train[train]")
    train_on_ten_pictures(vglm_of(python, empty), empty)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a short demo leaves."""
    folder = tmp_path_factory.mktemp("demo")
    checkout = f"PYTHONPATH={LAUNCH.parent}"
    run("env", checkout, sys.executable, "-m", "examples.demo.run", "--quick", cwd=folder)
    return folder / "demo_run"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("source", ["folder", "index"])
def test_an_empty_environment_answers_a_question(wheels, demo, python, empty, source):
    install(python, wheels, source, "vglm_train[chat]")
    vglm, bundle = vglm_of(python, empty), demo / "run2/bundle"
    picture = next((demo / "data/images").glob("*.png"))
    ask = ("chat", bundle, "--image", picture, "--temperature", 0, "--language", "en")
    refused = vglm(*ask, text="What is in the picture?\n", status=2)
    (words,) = re.findall(r"pip install (--no-deps) \"(SwissArmyTransformer[^\"]+)\"", refused)
    install(python, wheels, source, *words)
    answer = vglm(*ask, text="What is in the picture?\n")
    assert re.search("circle|square|triangle|star", answer), answer


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here: the unit was not checked")
def test_the_unit_is_one(tmp_path):
    unit = tmp_path / "vglm-serve.service"
    unit.write_text((LAUNCH / unit.name).read_text().replace("/opt/vglm/bin/vglm", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
