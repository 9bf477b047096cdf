"""--max-prompt and --languages: how long questions may be, and in which languages they are."""

import pytest
import small_generators
from made_shards import write_source
from made_tables import pictures, write_json
from run_tasks import Loaded, run_task

from vglm_train.errors import UserError

pytestmark = pytest.mark.usefixtures("no_java")
LONG = "a plain wall of red " * 12


@pytest.fixture
def long(tmp_path):
    """Three questions, the last one longer than the bundle's prompt; two are Chinese."""
    texts = ["what colour?", "什么颜色？", LONG + "墙的颜色是什么？"]
    rows = [{"img": name, "prompt": text, "label": "red"} for name, text in zip(pictures(tmp_path, 3), texts)]
    rows[1]["language"] = rows[2]["language"] = "zh"
    return write_json(tmp_path / "long.json", rows)


def test_a_long_question_says_what_it_needs_and_is_asked_whole_with_that(loaded: Loaded, long):
    with pytest.raises(
        UserError, match=r"1 of 3 .* 64 ids; the longest, long row 3, has (\d+)\..*--max-prompt \1\)"
    ) as error:
        run_task(loaded, long)
    assert "history" not in str(error.value)  # these questions have none
    needed = str(error.value).rpartition("--max-prompt ")[2].partition(")")[0]
    report, _, _ = run_task(loaded, long, "--max-prompt", needed)
    assert report["questions"] == 3
    assert report["max_prompt"] == int(needed)
    assert loaded.template.prompt.max_prompt == 64  # the bundle's own is as it was
    with pytest.raises(UserError, match="1 of 3"):
        run_task(loaded, long, "--max-prompt", str(int(needed) - 1))
    assert run_task(loaded, long, "--exclude", "key=long row 3")[0]["max_prompt"] == 64


def test_a_question_that_the_language_model_has_no_places_for(loaded: Loaded, long):
    with pytest.raises(
        UserError, match=r"long row 3: a sequence of \d+ tokens, .* than the 96 positions .*--max-new, --exclude"
    ):
        run_task(loaded, long, "--max-prompt", "500", "--max-new", "80")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--max-prompt", "0"), "--max-prompt 0: must be above 0"),
        (("--languages", "en,fr"), "--languages en,fr: 'fr' is none of en, zh; give en,zh"),
        (("--languages", ""), "--languages : '' is none of en, zh"),
    ],
)
def test_mistakes(loaded: Loaded, long, words, message):
    with pytest.raises(UserError, match=message):
        run_task(loaded, long, *words)


def test_languages(loaded: Loaded, long):
    report, _, _ = run_task(loaded, long, "--languages", "en")
    assert (report["questions"], report["languages"]) == (1, ["en"])
    assert run_task(loaded, long, "--languages", "zh, en", "--max-prompt", "75")[0]["languages"] == ["en", "zh"]


def test_languages_of_captions(loaded: Loaded, tmp_path):
    shards = write_source(tmp_path / "held_out", [3], captions={"en": 6, "zh": 3})
    report, _, _ = run_task(loaded, shards, "--languages", "zh", task="report")
    assert report["made_by"].keys() == {"zh"}


def test_no_room_for_any_question(loaded: Loaded, long, tmp_path):
    """ChatGLM's prompt has words of its own."""
    own = small_generators.small_generator(tmp_path, "chatglm")
    with pytest.raises(UserError, match="--max-prompt 4: is too short for any question; raise it"):
        run_task(Loaded(own.model, own.template, loaded.config), long, "--max-prompt", "4")
