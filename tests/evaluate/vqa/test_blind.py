"""Which questions a person answers first, what they can choose, and that the page does not show the answers before."""

import json
import re
from dataclasses import replace

import pytest
from made_questions import made_question
from made_tables import pictures, write_json
from run_tasks import result_of

from vglm_train.errors import UserError
from vglm_train.evaluate.findings.table import shipped_table
from vglm_train.evaluate.vqa import blind
from vglm_train.evaluate.vqa.blind import choices_of, choose_questions, known_answers
from vglm_train.evaluate.vqa.generate import AnswerGenerator
from vglm_train.prompt.dialogue import Dialogue, Turn

pytestmark = pytest.mark.usefixtures("no_java")


def held(page: str) -> dict:
    """What lies in the open."""
    found = re.search(r'<script type="application/json" id="open">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_types_languages_and_pictures_have_their_share():
    items = [
        made_question(n % 6, "colour?" if n % 2 else "颜色？", "red", type="colour" if n < 40 else "rare", key=f"{n}")
        for n in range(48)
    ]
    items = [replace(item, image_id=int(item.key)) for item in items]
    chosen = [items[index] for index in choose_questions(items, 8)]
    groups = [(item.type, item.dialogue.language) for item in chosen]
    assert sorted(groups) == sorted([(t, language) for t in ("colour", "rare") for language in ("en", "zh")] * 2)
    turned = items[::-1]
    assert [turned[index].key for index in choose_questions(turned, 8)] == [item.key for item in chosen]
    assert sorted(choose_questions(items, 100)) == list(range(48))


def test_different_pictures_come_first():
    items = [made_question(n // 4, "colour?", "red", key=f"{n}") for n in range(24)]
    assert len({items[index].image_id for index in choose_questions(items, 6)}) == 6
    assert len(choose_questions(items, 24)) == 24


def test_a_dialogue_does_not_tell_the_answer_to_its_own_earlier_question():
    later = Dialogue("and the sky?", None, (Turn("colour?", "red"),))
    items = [made_question(0, "colour?", "red", key="a"), made_question(0, "sky?", "blue", key="a:1", dialogue=later)]
    items.append(made_question(1, "colour?", "green", key="b"))
    chosen = [items[index].key for index in choose_questions(items, 10)]
    assert len(chosen) == 2
    assert "b" in chosen


@pytest.mark.parametrize(
    ("item", "options", "choices"),
    [
        (made_question(0, "red?", "yes", kind="closed"), [], ["yes", "no"]),
        (made_question(0, "红吗？", "不是", kind="closed"), [], ["是", "否"]),
        (made_question(0, "left or right?", "Right", kind="closed"), ["left", "right"], ["left", "right"]),
        (made_question(0, "side?", "right", kind="closed", options=("right", "left")), ["right", "left"], None),
        (made_question(0, "side?", "upper", kind="closed"), ["right", "left"], ["left", "right", "upper"]),
        (made_question(0, "side?", "right", kind="closed"), ["right"], "written"),
        (made_question(0, "side?", "right"), ["right", "left"], "written"),
    ],
)
def test_choices(item, options, choices):
    wanted = None if choices == "written" else options if choices is None else choices
    assert choices_of(item, options) == wanted


def test_answers_of_a_small_vocabulary_are_suggested():
    items = [made_question(0, "plane?", ("pa", "ap")[n % 2], type="plane") for n in range(4)]
    items += [made_question(0, "what?", f"finding {n}", type="finding") for n in range(4)]
    items += [made_question(0, "red?", "yes", kind="closed", type="red")] * 4
    assert known_answers(items) == {("plane", "en"): ["ap", "pa"]}


def test_the_page_of_the_command(loaded, table):
    result = result_of(loaded, table, "--blind", "--blind-questions", "4")
    assert result.lines[-1].startswith("blind page: a person answers 4 of 12 questions;")
    assert "pictures of at most 1024 pixels" in result.lines[-1]
    public = held(result.blind)
    assert len(public["questions"]) == 4
    assert public["of"] == 12
    assert {len(question["pictures"]) for question in public["questions"]} == {1}
    outside = re.sub(r'<script type="application/octet-stream" id="sealed">[^<]+</script>', "", result.blind)
    for line in (*result.report["verdict"], "images/0.jpg", "patients or pictures</h2>"):
        assert line in result.page
        assert line not in outside, "it tells something before a person has answered"
    assert "answers" not in public["questions"][0]
    assert result_of(loaded, table, "--blind", "--blind-questions", "4").blind == result.blind
    assert result_of(loaded, table).blind is None


def test_reports_are_read_by_marking_findings(loaded, table):
    page = result_of(loaded, table, "--blind", task="report").blind
    public = held(page)
    assert len(public["questions"]) == 6
    assert [each["name"] for each in public["findings"]] == shipped_table().abnormal()
    glass = next(each for each in public["findings"] if each["name"] == "ground_glass")
    assert glass == {"name": "ground_glass", "en": "ground glass", "zh": "磨玻璃影", "whole": "lung_opacity"}
    assert "cardiomegaly number" not in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--blind-questions", "5"), r"--blind-questions 5: is of --blind; give both"),
        (("--blind", "--blind-questions", "0"), r"--blind-questions must be 1 or more, found 0"),
    ],
)
def test_mistakes_of_the_blind_mode(loaded, table, words, message):
    with pytest.raises(UserError, match=message):
        result_of(loaded, table, *words)


def test_pictures_that_have_gone_are_named_before_answers_are_generated(loaded, tmp_path, monkeypatch):
    whole = blind.choose_questions

    def after_they_have_gone(*given):
        for file in (tmp_path / "images").iterdir():
            file.unlink()
        monkeypatch.setattr(AnswerGenerator, "outputs", None)
        return whole(*given)

    rows = [{"img": name, "prompt": "plane?", "label": "pa", "type": "plane"} for name in pictures(tmp_path, 2)]
    monkeypatch.setattr(blind, "choose_questions", after_they_have_gone)
    with pytest.raises(UserError, match=r"a picture cannot be read any more: .*images/[01]\.jpg"):
        result_of(loaded, write_json(tmp_path / "gone.json", rows), "--blind")
