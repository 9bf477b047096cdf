"""One command from a made hospital to a verdict: every step, what it prints and what it refuses."""

import hashlib
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from clinic.starts import command, result, start
from examples.clinic.make_data import TABLE

STEPS = ("look", "convert", "split", "leaks", "recipe", "check", "train", "evaluate report")


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def done(
    hospital: Path, base: Path, salt: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, "subprocess.CompletedProcess[str]"]:
    """The folder that was made, and what was printed."""
    folder, before = tmp_path_factory.mktemp("person"), tree(hospital)
    ended = start(command(hospital, base, folder / "out", salt), folder)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert tree(hospital) == before, "the hospital's folder is only read"
    assert [path.name for path in folder.iterdir()] == ["out"]
    return folder / "out", ended


def commands(out: str) -> list[list[str]]:
    return [shlex.split(line[2:]) for line in out.splitlines() if line.startswith("$ vglm ")]


def test_it_ends_with_a_verdict_in_two_languages(done: tuple[Path, "subprocess.CompletedProcess[str]"]) -> None:
    out, ended = done
    last = ended.stdout.split("=== verdict\n")[1].splitlines()
    assert last[0].startswith("Reports: ")
    assert last[1].startswith("报告：")
    assert last[2] == str(out / "verdict.html")
    page = (out / "verdict.html").read_text("utf-8")
    assert last[1] in page
    assert 'href="report.html"' in page
    assert (out / "report.html").exists()
    assert list(json.loads((out / "clinic.json").read_text("utf-8"))["done"]) == list(STEPS)


def test_each_step_says_what_is_left(done: tuple[Path, "subprocess.CompletedProcess[str]"]) -> None:
    """The titles that are told before are those of the steps."""
    _, ended = done
    lines = ended.stdout.splitlines()
    titles = [line.partition(": ")[2] for line in lines if line.startswith("=== step ")]
    left = [line.removeprefix("after it: ").split(", ") for line in lines if line.startswith("after it: ")]
    assert len(left) == len(titles) == len(STEPS)
    for number, told in enumerate(left, 1):
        early = number <= STEPS.index("recipe") + 1  # the tasks are not known yet
        later = [*titles[number:-1], "evaluate"] if early else titles[number:]
        assert told == [*later, "the verdict"], number
    assert f"{len(STEPS) - 1} of {len(STEPS)} steps done, in " in ended.stdout


def test_each_command_is_one_that_can_be_pasted(
    done: tuple[Path, "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    """The split again, from another folder, with its --out changed."""
    out, ended = done
    told = commands(ended.stdout)
    assert len(told) == len(STEPS)
    words = next(words for words in told if words[1:3] == ["data", "split"])
    words[words.index("--out") + 1] = str(tmp_path / "again")
    assert start([sys.executable, "-m", "vglm_train", *words[1:]], tmp_path).returncode == 0
    again = [json.loads(line)["id"] for line in (tmp_path / "again" / "test.jsonl").read_text("utf-8").splitlines()]
    assert again == [json.loads(line)["id"] for line in (out / "data" / "test.jsonl").read_text("utf-8").splitlines()]


def test_nothing_that_is_made_names_a_patient(done: tuple[Path, "subprocess.CompletedProcess[str]"]) -> None:
    out, _ = done
    planted = [b"MADE-", b"MADE^", b"ACC0", b"1.2.826.0.1.3680043.10.1"]
    planted += [b"study0", b"IM0000"]  # names of the hospital's folders and files
    held = {path: path.read_bytes() + path.name.encode() for path in out.rglob("*") if path.is_file()}
    assert [(path.name, word) for path, data in held.items() for word in planted if word in data] == []


def test_the_same_command_again_does_nothing_anew(
    done: tuple[Path, "subprocess.CompletedProcess[str]"], hospital: Path, base: Path, salt: Path
) -> None:
    out, ended = done
    before = tree(out)
    again = start(command(hospital, base, out, salt), out.parent)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("--- done before") == len(STEPS)
    assert commands(again.stdout) == commands(ended.stdout)
    assert tree(out) == before


def test_other_options_are_refused(
    done: tuple[Path, "subprocess.CompletedProcess[str]"],
    hospital: Path,
    base: Path,
    salt: Path,
) -> None:
    out, _ = done
    again = start(command(hospital, base, out, salt, "--test=0.4", "optim.lr=1e-5"), out.parent)
    assert again.returncode == 2
    assert "--test: 0.25 before, 0.4 now" in again.stderr
    assert "overrides: " in again.stderr
    assert f"To start anew, give another --out, or delete {out}" in again.stderr


@pytest.mark.slow
def test_a_failing_step_is_named(hospital: Path, base: Path, salt: Path, tmp_path: Path) -> None:
    """A recipe for questions, of which the table has none: nothing is trained, and what was done stays."""
    ended = start(command(hospital, base, tmp_path / "out", salt, "--preset=xray_vqa_small"), tmp_path)
    assert ended.returncode == 2
    assert "error: step 6 of 8 (check what training would do) failed with status 2" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "out" / "run").exists()
    assert list(json.loads((tmp_path / "out" / "clinic.json").read_text("utf-8"))["done"]) == list(STEPS[:5])


def test_the_result_can_be_read(done: tuple[Path, "subprocess.CompletedProcess[str]"]) -> None:
    out, _ = done
    assert result(out)["sections"][0]["name"] == "all"
    assert (out / "run" / "bundle" / "bundle.json").exists()
    assert TABLE not in (out / "clinic.json").read_text("utf-8")
