"""Progress: a bar for a person, lines for a program, silence for a log."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from vglm_train import progress
from vglm_train.__main__ import main
from vglm_train.errors import UserError
from vglm_train.progress import Progress


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    monkeypatch.setenv(progress.VARIABLE, "")
    monkeypatch.setattr(progress, "DELAY", 0.0)


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_log_gets_nothing(capsys):
    with Progress(3, "row", "read") as bar:
        bar.update(3)
    assert capsys.readouterr() == ("", "")


def test_lines_for_a_program(capsys, monkeypatch):
    monkeypatch.setenv(progress.VARIABLE, "json")
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with Progress(4, "row", "读", already=1) as bar:
        bar.update()
        bar.update(2)
    found = lines(capsys.readouterr().err)
    assert [(each["done"], each["total"], each["ended"]) for each in found] == [
        (2, 4, False),
        (4, 4, False),
        (4, 4, True),
    ]
    assert {each["progress"] for each in found} == {"读"}
    assert found[0]["left"] >= 0
    assert found[-1]["left"] == 0


def test_a_total_that_is_unknown(capsys, monkeypatch):
    monkeypatch.setenv(progress.VARIABLE, "json")
    assert list(Progress(None, "row", "read").over(iter("abc"))) == ["a", "b", "c"]
    (last,) = [each for each in lines(capsys.readouterr().err) if each["ended"]]
    assert (last["done"], last["total"], last["left"]) == (3, None, None)


def test_an_error_ends_it_where_it_was(capsys, monkeypatch):
    monkeypatch.setenv(progress.VARIABLE, "json")

    def broken():
        yield from (1, 2)
        raise ValueError("b")

    with pytest.raises(ValueError, match="b"):
        list(Progress(4, "row", "read").over(broken()))
    assert lines(capsys.readouterr().err)[-1]["done"] == 2


def test_a_bar_when_asked_for(capsys, monkeypatch):
    monkeypatch.setenv(progress.VARIABLE, "bar")
    with Progress(2, "row", "read") as bar:
        bar.update(2)
    assert "read: 100 %" in capsys.readouterr().err


def test_other_processes_say_nothing(capsys, monkeypatch):
    monkeypatch.setenv(progress.VARIABLE, "json")
    with Progress(2, "row", "read", shown=False) as bar:
        bar.update(2)
    assert capsys.readouterr().err == ""


def test_a_style_that_is_none(monkeypatch):
    monkeypatch.setenv(progress.VARIABLE, "loud")
    with pytest.raises(UserError, match="VGLM_PROGRESS=loud: give one of bar, json, off"):
        Progress(2, "row", "read")


def test_the_command_sets_it_for_what_it_starts(monkeypatch):
    monkeypatch.setenv(progress.VARIABLE, "off")
    assert main(["--progress", "json", "--version"]) == 0
    assert os.environ[progress.VARIABLE] == "json"


@pytest.mark.parametrize("words", [["--progress"], ["--progress", "loud", "env"]])
def test_the_command_refuses_others(words, capsys):
    assert main(words) == 2
    assert "give one of bar, json, off" in capsys.readouterr().err


def test_a_command_of_the_data_tools(tmp_path):
    """A whole one, as a program sees it."""
    table = tmp_path / "a.jsonl"
    Image.new("RGB", (32, 32)).save(tmp_path / "a.jpg")
    table.write_text('{"image": "a.jpg", "text": "x"}\n' * 3)
    words = [sys.executable, "-m", "vglm_train", "--progress", "json", "data", "check_table", str(table)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    found = lines("\n".join(line for line in done.stderr.splitlines() if line.startswith("{")))
    assert {each["progress"] for each in found} >= {"read a.jsonl"}
