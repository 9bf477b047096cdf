"""Commands and YAML in the READMEs and the documentation: options that exist, values that are allowed."""

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from vglm_train.__main__ import main
from vglm_train.config.load import load
from vglm_train.config.schema import schema
from vglm_train.evaluate.findings.table import read_table

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
AROUND = ["run.name=page", "data.train=[{name: a, shards: b}]"]  # what a block that shows a part leaves out


class Parsed(BaseException):
    """The arguments of a command were understood."""


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """(where, text) of every block of a language."""
    for page in PAGES:
        for number, (_, name, text) in enumerate(BLOCK.findall(page.read_text())):
            if name == language:
                yield f"{page.relative_to(ROOT).as_posix()}:{number}", text


def commands() -> Iterator[tuple[str, list[str]]]:
    """(where, words) of every command `vglm ...`, in blocks and in the text."""
    for where, text in blocks("sh"):
        for number, line in enumerate(text.replace("\\\n", " ").splitlines()):
            if line.strip().startswith("vglm "):
                yield f"{where}:{number}", shlex.split(re.split(r" [|>] ", line)[0], comments=True)[1:]
    for page in PAGES:
        text = BLOCK.sub("", page.read_text())
        for number, line in enumerate(re.findall(r"`(vglm [^`]+)`", text)):
            words = shlex.split(line.replace("\n", " "))[1:]
            names = [word for word in words if set("-./=") & set(word)]  # else it is a command's name alone
            if names and not any("..." in word for word in words):
                yield f"{page.relative_to(ROOT).as_posix()}:text:{number}", words


def _parse_only(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    original = getattr(argparse.ArgumentParser, method)

    def parse(parser: argparse.ArgumentParser, args: object = None, namespace: object = None) -> None:
        original(parser, args, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, method, parse)


@pytest.mark.parametrize("words", [pytest.param(words, id=where) for where, words in commands()])
def test_a_command_has_options_that_exist(words, monkeypatch):
    for method in ("parse_args", "parse_intermixed_args"):
        _parse_only(monkeypatch, method)
    with pytest.raises(SystemExit if words[-1] == "--help" else Parsed) as stop:
        main(words)
    assert getattr(stop.value, "code", 0) == 0


def _trainings() -> Iterator[tuple[str, list[str]]]:
    for where, words in commands():
        if words[0] == "train" and (ROOT / words[1]).is_file() and "finetune" not in words[1]:  # these need a bundle
            yield where, words


@pytest.mark.parametrize("words", [pytest.param(words, id=where) for where, words in _trainings()])
def test_overrides_are_values_that_the_configuration_takes(words):
    load(ROOT / words[1], [word for word in words[2:] if not word.startswith("--") and "=" in word])


@pytest.mark.parametrize("text", [pytest.param(text, id=where) for where, text in blocks("yaml")])
def test_yaml_is_a_configuration_or_a_part_of_one(text, tmp_path):
    shown = yaml.safe_load(text)
    left_out = [
        each for each in AROUND if each.split("=")[0].split(".")[1] not in (shown.get(each.split(".")[0]) or {})
    ]
    (tmp_path / "page.yaml").write_text(text)
    load(tmp_path / "page.yaml", left_out)


@pytest.mark.parametrize("text", [pytest.param(text, id=where) for where, text in blocks("yaml")])
def test_an_editor_marks_nothing_in_yaml_but_what_is_left_out(text):
    errors = jsonschema_rs.validator_for(schema()).iter_errors(yaml.safe_load(text))
    assert [error.message for error in errors if error.schema_path[-1] != "required"] == []


@pytest.mark.parametrize("text", [pytest.param(text, id=where) for where, text in blocks("yml")])
def test_tables_of_findings_are_read(text, tmp_path):
    (tmp_path / "page.yaml").write_text(text, "utf-8")
    assert read_table(tmp_path / "page.yaml").name in text


def test_there_is_something_to_look_at():
    assert len(list(commands())) > 40
    assert len(list(blocks("yaml"))) > 8
    assert len(list(blocks("yml"))) == 2
