"""A vocabulary that changes under a run: what is trained knows words by their ids."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from run.starts import begin, go_on, said, second_start

pytestmark = pytest.mark.usefixtures("alone")


def change_lines(home: Path, change: Callable[[list[str]], list[str]], end: str = "\n") -> None:
    words = (home / "vocab.txt").read_text("utf-8").removesuffix("\n").split("\n")
    (home / "vocab.txt").write_bytes("".join(word + end for word in change(words)).encode())


def swapped(words: list[str]) -> list[str]:
    return [*words[:5], words[6], words[5], *words[7:]]


OTHER: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "grown": (lambda words: [*words, "new", "er"],
              '215 words and has 217, added ones included; 3 ids mean something else now: 212 was "[DEC]" and is "new",'
              ' 213 was "[EN]" and is "er", 214 was "[ZH]" and is "[DEC]". The'),
    "shorter": (lambda words: words[:-1],
                '215 words and has 214, added ones included; 4 ids mean something else now: 211 was "199" and is '
                '"[DEC]", 212 was "[DEC]" and is "[EN]", 213 was "[EN]" and is "[ZH]", ...'),
    "two exchanged": (swapped, '; 2 ids mean something else now: 5 was "a" and is "photo", 6 was "photo" and is "a"'),
    "renamed": (lambda words: [*words[:5], "一", *words[6:]], '; 1 id means something else now: 5 was "a" and is "一"'),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), OTHER.values(), ids=OTHER)
def test_ids_that_mean_other_words_are_refused_whatever_is_accepted(
    home: Path, refused: Callable[..., str], change: Callable[[list[str]], list[str]], words: str
) -> None:
    begin(home)
    change_lines(home, change)
    for option in ((), ("--accept-changes",)):
        error = refused(*second_start(home, *option))
        assert f"model.text.tokenizer: {home / 'vocab.txt'} is another vocabulary than step-00000005" in error
        assert words in error
        assert "--accept-changes neither. Bring back the file as it was, or begin a new run" in error


def test_lines_that_end_otherwise_are_the_same_words(home: Path) -> None:
    begin(home)
    change_lines(home, list, end="\r\n")
    assert go_on(home) == 0
    assert "changed: model" not in said(home)


def test_a_folder_whose_words_are_gone_still_refuses(home: Path, refused: Callable[..., str]) -> None:
    begin(home)
    shutil.rmtree(home / "run" / "vocabularies")
    change_lines(home, swapped)
    assert "It has 215, added ones included; the former words are not in the run folder" in refused(*second_start(home))


@pytest.fixture
def tokenizer(table: Path) -> Path:
    """The file of a language model's tokenizer, in a folder of its own."""
    document = yaml.safe_load((table / "run.yaml").read_text())
    weights = Path(document["model"]["language"]["weights"])
    folder = table / "tokenizer"
    folder.mkdir()
    for file in weights.iterdir():
        if file.suffix == ".json" and "token" in file.name:
            shutil.copy(file, folder / file.name)
    document["model"]["language"]["tokenizer"] = str(folder)
    (table / "run.yaml").write_text(yaml.safe_dump(document))
    return folder / "tokenizer.json"


def test_a_language_models_tokenizer_written_otherwise_is_the_same(table: Path, tokenizer: Path) -> None:
    begin(table)
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text("utf-8")), indent=3), "utf-8")
    assert go_on(table) == 0
    assert "changed: model" not in said(table)


def test_a_language_models_words_that_change_ids(table: Path, tokenizer: Path, refused: Callable[..., str]) -> None:
    begin(table)
    content = json.loads(tokenizer.read_text("utf-8"))
    words = content["model"]["vocab"]
    first, second = [word for word in words if word not in {each["content"] for each in content["added_tokens"]}][:2]
    words[first], words[second] = words[second], words[first]
    tokenizer.write_text(json.dumps(content), "utf-8")
    error = refused(*second_start(table, "--accept-changes"))
    assert f"model.language.tokenizer: {tokenizer.parent} is another vocabulary" in error
    assert "2 ids mean something else now" in error


def test_a_tokenizer_that_cuts_texts_otherwise_can_be_accepted(
    table: Path, tokenizer: Path, refused: Callable[..., str]
) -> None:
    begin(table)
    content = json.loads(tokenizer.read_text("utf-8"))
    content["normalizer"] = {"type": "Lowercase"}
    tokenizer.write_text(json.dumps(content), "utf-8")
    assert re.search(r"model.language.tokenizer \S+/tokenizer: content \w+ when", refused(*second_start(table)))
    assert go_on(table, "--accept-changes") == 0
    assert "changed: model.language.tokenizer" in said(table)
