"""The checklist of a release: each thing that does not hold is named, and nothing is changed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vglm_train import __version__

ROOT = Path(__file__).resolve().parents[2]
FILES = ("launch/release.sh", "vglm_train/version.py", "CHANGELOG.md", "pyproject.toml")
TAG = f"git tag -a v{__version__}"


def git(checkout: Path, *words: str) -> str:
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(checkout), *author, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def release(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(checkout / "launch/release.sh"), *words]
    environment = os.environ | {"PYTHON": sys.executable}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text("utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), "utf-8")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the script reads, committed, with a changelog that has today's version and a day."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    lines = (ROOT / "CHANGELOG.md").read_text("utf-8").splitlines()
    first = next(line for line in lines if line.startswith("## ["))
    change(tmp_path / "CHANGELOG.md", first, f"## [{__version__}] - 2026-01-31")
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    return tmp_path


def commit(checkout: Path) -> None:
    git(checkout, "add", "-A")
    git(checkout, "commit", "-q", "-m", "files")


def test_what_holds_ends_with_the_tags_command_and_changes_nothing(checkout):
    done = release(checkout, "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert TAG in done.stdout
    assert "NOT " not in done.stdout
    assert git(checkout, "status", "--porcelain") == git(checkout, "tag") == ""


def test_what_is_not_committed_is_named(checkout):
    (checkout / "notes.txt").write_text("a\n")
    done = release(checkout, "--quick")
    assert done.returncode == 1
    assert "?? notes.txt" in done.stdout
    assert TAG not in done.stdout


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("CHANGELOG.md", " - 2026-01-31", " - unreleased", "not with '## ["),
        ("vglm_train/version.py", __version__, "9.9.9", "not with '## [9.9.9] - YYYY-MM-DD'"),
        ("vglm_train/version.py", __version__, "soon", "the version is 'soon', not MAJOR.MINOR.PATCH"),
        ("pyproject.toml", 'dynamic = ["version"]', 'version = "0.0.1"', 'version = "0.0.1"'),
    ],
)
def test_a_version_that_does_not_fit_is_named(checkout, name, old, new, says):
    change(checkout / name, old, new)
    commit(checkout)
    done = release(checkout, "--quick")
    assert done.returncode == 1
    assert says in done.stdout
    assert TAG not in done.stdout


def test_a_version_that_was_released_is_not_released_again(checkout):
    git(checkout, "tag", f"v{__version__}")
    done = release(checkout, "--quick")
    assert done.returncode == 1
    assert f"the tag v{__version__} is there already" in done.stdout


@pytest.mark.parametrize(
    ("gates", "wheel", "says"),
    [
        ("exit 1", "def test_wheel(): pass", "NOT   the gates of .ci/run"),
        ("exit 0", "def test_wheel(): assert False", "NOT   the wheel: tests/test_wheel.py"),
        ("echo new >page.md", "def test_wheel(): pass", "?? page.md"),
        ("exit 0", "def test_wheel(): pass", TAG),
    ],
)
def test_gates_and_wheel_are_run(checkout, gates, wheel, says):
    """Short ones stand for both: the real ones run this test."""
    (checkout / ".ci").mkdir()
    (checkout / ".ci/run").write_text(f"#!/bin/sh\n{gates}\n")
    (checkout / ".ci/run").chmod(0o755)
    (checkout / "tests").mkdir()
    (checkout / "tests/test_wheel.py").write_text(wheel + "\n")
    (checkout / ".gitignore").write_text("__pycache__/\n.pytest_cache/\n")
    commit(checkout)
    done = release(checkout)
    assert says in done.stdout
    assert done.returncode == (0 if says == TAG else 1)
    assert (TAG in done.stdout) == (says == TAG)


def test_an_option_that_is_none_shows_the_help(checkout):
    done = release(checkout, "--fast")
    assert done.returncode == 2
    assert "launch/release.sh [--quick]" in done.stderr
