"""The reference pages that are made of the code."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from docs import arguments, generate, keys, markdown
from docs.words import ChineseWords, Words
from vglm_train.evaluate.__main__ import TASKS

ENTRIES = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=utf-8\\n"\n\n'


def words(tmp_path: Path, *entries: str) -> ChineseWords:
    file = tmp_path / "small.po"
    file.write_text(ENTRIES + "\n\n".join(entries) + "\n", "utf-8")
    return ChineseWords(file)


@pytest.fixture(scope="module")
def made() -> tuple[dict[Path, str], ChineseWords]:
    """The pages, and the Chinese that they were made with."""
    chinese = ChineseWords()
    return generate.pages(chinese), chinese


def test_the_pages_are_up_to_date(made):
    stale = [str(path) for path, text in made[0].items() if path.read_text("utf-8") != text]
    assert stale == [], "make reference writes them anew"


def test_every_text_has_its_chinese_and_every_chinese_is_used(made):
    """A key, an option or its text that changes without docs/zh/reference.po is named here."""
    assert (made[1].missing, made[1].unused()) == ([], [])


def test_chinese_has_the_same_values():
    """`{}` and `%(default)s` of the English text, and its numbers."""
    chinese = ChineseWords()
    for (_, english), text in chinese._texts.items():
        for place in ("%(default)s", "%(prog)s", "{}"):
            assert english.count(place) == text.count(place), english
        assert set(re.findall(r"\d+", english)) <= set(re.findall(r"\d+", text)), english


def test_a_changed_text_has_no_chinese(tmp_path):
    chinese = words(tmp_path, 'msgid "how long"\nmsgstr "多长"', 'msgid "how wide"\nmsgstr ""')
    assert [chinese("how long"), chinese("how long it is", "run.length"), chinese("how wide")] == [
        "多长", "how long it is", "how wide",
    ]  # fmt: skip
    assert chinese.missing == ["run.length: how long it is", "how wide"]


def test_chinese_that_no_page_says_is_named(tmp_path):
    assert words(tmp_path, 'msgid "how long"\nmsgstr "多长"').unused() == ["how long"]


def test_a_key_can_have_a_chinese_of_its_own(tmp_path):
    own = 'msgctxt "model.depth"\nmsgid "blocks"\nmsgstr "保留的层数"'
    chinese = words(tmp_path, own, 'msgid "blocks"\nmsgstr "层数"')
    assert [chinese("blocks", "model.depth"), chinese("blocks", "model.layers")] == ["保留的层数", "层数"]


@dataclass(frozen=True)
class Section:
    """A section."""

    width: Annotated[int, "channels"] = 4


def test_a_new_key_of_the_configuration_is_missed(tmp_path):
    chinese = words(tmp_path)
    keys._section("model.new", Section, chinese)
    assert "model.new.width: channels" in chinese.missing


def test_a_new_option_of_a_command_is_missed(tmp_path):
    chinese, parser = words(tmp_path), argparse.ArgumentParser()
    parser.add_argument("--quiet", action="store_true", help="say nothing")
    assert "| `--quiet` | say nothing |" in arguments.arguments(arguments._actions(parser), Words())[0]
    arguments.arguments(arguments._actions(parser), chinese)
    assert "--quiet: say nothing" in chinese.missing


def test_an_argument_without_a_help_text_is_refused():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quiet", action="store_true")
    with pytest.raises(AssertionError, match="quiet says nothing"):
        arguments.arguments(arguments._actions(parser), Words())


def test_each_task_of_evaluation_shows_arguments_of_its_own():
    text = arguments.commands(Words())
    sections = {part.partition("\n")[0]: part for part in text.split("### ") if part.startswith("vglm evaluate")}
    assert set(sections) == {*(f"vglm evaluate --task {task}" for task in TASKS), "vglm evaluate --protocol NAME"}
    assert "`--join JOIN`" in sections["vglm evaluate --protocol NAME"]
    assert "beams" not in sections["vglm evaluate --protocol NAME"].partition("--batch")[0]
    assert "`--rerank RERANK`" in sections["vglm evaluate --task retrieval"]
    assert "`--rerank RERANK`" not in sections["vglm evaluate --task vqa"]
    assert text.count("**`--data DATA`**") == 1


def test_bars_do_not_cut_a_table():
    assert markdown.table(("a", "b"), iter([("x|y", "z")])).splitlines()[-1] == "| x\\|y | z |"
