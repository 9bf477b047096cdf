"""Rows that ask and answer in columns: every text of them reaches the record, or is told."""

import math
from typing import Any

import pytest

from vglm_train.config.data import Fields
from vglm_train.data.record import RecordError
from vglm_train.data.tables.answers import EMPTY, OTHER_LANGUAGE, WEIGHTLESS, texts_of
from vglm_train.data.tables.canonical import UNKNOWN_KIND, UNKNOWN_LANGUAGE, RowReading, read_row
from vglm_train.data.tables.choices import BY_NUMBER
from vglm_train.data.tables.fields import resolve
from vglm_train.data.tables.questions import NO_QUESTION
from vglm_train.data.tables.turns import MARK_IN_ANSWER, SYSTEM, UNANSWERED


def read(row: dict[str, Any], **fields: str) -> RowReading:
    return read_row(row, resolve("t.json", list(row), Fields(**fields)))


def said(row: dict[str, Any], **fields: str) -> list[str]:
    return [turn["text"] for turn in read(row, **fields).record["turns"]]


def test_alpaca() -> None:
    row = {"instruction": "<image>Describe.", "input": "Left lung only.", "output": "Clear.", "images": ["a.jpg"]}
    assert said(row) == ["<image>Describe.\nLeft lung only.", "Clear."]
    assert said({**row, "input": ""}) == ["<image>Describe.", "Clear."]
    assert said({**row, "input": math.nan}) == ["<image>Describe.", "Clear."]
    assert said({**row, "instruction": None}) == ["Left lung only.", "Clear."]
    history = [["<image>First?", "One."], ["Second?", True]]
    earlier = {**row, "instruction": "And now?", "input": "", "history": history}
    assert said(earlier) == ["<image>First?", "One.", "Second?", "yes", "And now?", "Clear."]
    assert said({**earlier, "history": "[]"}) == ["And now?", "Clear."]
    assert said({**earlier, "history": '[["First?", "One."]]'}) == ["First?", "One.", "And now?", "Clear."]


@pytest.mark.parametrize(
    ("history", "reason"),
    [("once upon a time", "must be a list of turns"), ([["a", "b", "c"]], "unknown role"),
     ([["First?", None]], "is empty"), ([{"role": "user", "content": "First?"}], "must end with an answer"),
     ([{"role": "assistant", "content": "x"}] * 2, "must end with an answer")],
)  # fmt: skip
def test_a_history_that_is_none(history: Any, reason: str) -> None:
    with pytest.raises(RecordError, match=reason):
        read({"image": "a.jpg", "query": "And now?", "response": "Clear.", "history": history})


def test_ms_swift() -> None:
    row = {"query": "<image>And now?", "response": "Clear.", "images": ["a.jpg"],
           "history": [["Hello", "Hi."]]}  # fmt: skip
    assert said(row) == ["Hello", "Hi.", "<image>And now?", "Clear."]
    qwen = {"query": "Picture 1: <img>a.jpg</img>\nWhat?", "response": "A dog."}
    record, pictures, _ = read({"image": None, **qwen})
    assert (record["turns"][0]["text"], pictures) == ("Picture 1: <image>\nWhat?", ["a.jpg"])
    assert read({"image": "b.jpg", **qwen}).pictures == ["b.jpg"]
    with pytest.raises(RecordError, match="2 <image> marks for 1 picture"):
        read({**row, "query": "<image><image>And now?"})


@pytest.mark.parametrize("mark", ["<image>", "<Image>", "<ImageHere>", "<|image|>", "<Img><ImageHere></Img>"])
def test_marks_of_other_tools(mark: str) -> None:
    assert said({"image": "a.jpg", "question": f"{mark} What?", "answer": "A dog."})[0] == "<image> What?"
    messages = [{"role": "user", "content": f"{mark} What?"}, {"role": "assistant", "content": "A dog."}]
    assert said({"image": "a.jpg", "messages": messages})[0] == "<image> What?"


def test_context_before_the_question() -> None:
    row = {"image": "a.jpg", "question": "Which organ?", "hint": "Seen from above.", "answer": "heart"}
    assert said(row) == ["Seen from above.\nWhich organ?", "heart"]
    assert said({**row, "hint": "nan"}) == ["Which organ?", "heart"]
    assert said(row, context="") == ["Which organ?", "heart"]
    other = {**row, "rationale": "It beats."}
    assert said(other, context="rationale")[0] == "It beats.\nWhich organ?"
    assert read({"image": "a.jpg", "hint": "Seen from above.", "answer": "a heart"}).record["captions"] == {
        "en": ["a heart"]
    }


def test_missing_values_among_answers_are_told() -> None:
    row = {"image": "a.jpg", "question": "Red?", "answers": ["no", None, math.nan, "NULL", "yes", "yes"]}
    record, _, notes = read(row)
    assert (record["answers"], record["turns"][1]["text"], notes) == (["no", "yes", "yes"], "yes", (EMPTY,))
    captions = read({"image": "a.jpg", "captions": ["a dog", "nan", "None"]})
    assert (captions.record["captions"], captions.notes) == ({"en": ["a dog"]}, (EMPTY,))
    for answers in ([None, math.nan], ["nan"], [[]]):
        with pytest.raises(RecordError, match="the row has no answer") as caught:
            read({**row, "answers": answers})
        assert caught.value.cause == "caption"
    assert said({**row, "answers": [math.nan], "answer": "no"}) == ["Red?", "no"]


@pytest.mark.parametrize("question", [None, math.nan, "", "nan", "NULL"])
def test_no_question_is_told(question: Any) -> None:
    record, _, notes = read({"image": "a.jpg", "question": question, "answer": "two dogs"})
    assert (record["captions"], notes) == ({"en": ["two dogs"]}, (NO_QUESTION,))


def test_booleans_of_json() -> None:
    assert said({"image": "a", "question": "Is there effusion?", "answer": False})[1] == "no"
    assert said({"image": "a", "question": "有积液吗？", "answer": True})[1] == "是"
    turns = [{"from": "human", "value": "有积液吗？"}, {"from": "gpt", "value": False}]
    assert said({"image": "a", "conversations": turns})[1] == "否"
    chosen = {"image": "a", "question": "Is it?", "options": ["yes", "no"], "answer": True}
    assert said(chosen) == ["Is it?\nA. yes\nB. no", "yes"]


def test_a_class_number_is_no_caption() -> None:
    with pytest.raises(RecordError, match="a caption must be a text: found the number 3"):
        read({"image": "a.jpg", "label": 3})


def test_weights() -> None:
    row = {"image": "a.jpg", "question": "What?", "answers": {"y": 0.3, "x": 0.9, "z": 0.0}}
    record, _, notes = read(row)
    assert (record["turns"][1]["text"], record["answers"], notes) == ("x", ["x", "y"], (WEIGHTLESS,))
    listed = [{"answer": "x", "weight": 0.4}, {"answer": "x", "weight": 0.7}, {"answer": "y", "weight": 1}]
    assert said({**row, "answers": listed})[1] == "x"
    assert said({**row, "answers": [*listed[:2], {"answer": "y", "weight": 1.2}]})[1] == "y"
    confident = [{"answer": "x", "answer_confidence": "yes", "answer_id": n} for n in range(9)]
    ten = read({**row, "answers": [*confident, {"answer": "y", "answer_confidence": "no"}]}).record
    assert (ten["answers"], ten["turns"][1]["text"]) == (["x"] * 9 + ["y"], "x")


def test_questions_in_a_list() -> None:
    row = {"image": "a.jpg", "question": ["One?", "Two?", "Three?"], "answer": ["1", None, 3]}
    record, _, notes = read(row)
    assert [turn["text"] for turn in record["turns"]] == ["One?", "1", "Three?", "3"]
    assert notes == (EMPTY,)
    assert said({**row, "question": ["One?"], "answer": ["1", "1", "2"]}) == ["One?", "1"]
    with pytest.raises(RecordError, match="as many answers as questions are needed: 3 questions, 1"):
        read({**row, "answer": "1"})
    with pytest.raises(RecordError, match="give each question a row"):
        read({**row, "options": ["1", "2"]})
    with pytest.raises(RecordError, match="a question must be a text: found an object"):
        read({**row, "question": {"en": "One?"}, "answer": "1"})


MC = {"image": "a.jpg", "question": "Which organ?", "options": ["liver", "heart"], "answer": 1}


def test_choices_reach_the_question_and_the_answer() -> None:
    record, _, notes = read(MC)
    assert [turn["text"] for turn in record["turns"]] == ["Which organ?\nA. liver\nB. heart", "heart"]
    assert (record["options"], record["kind"], notes) == (["liver", "heart"], "closed", (BY_NUMBER.format(0),))
    assert said({**MC, "options": {"A": "liver", "B": "heart"}, "answer": "B"})[1] == "heart"
    assert said({**MC, "answers": [1, "B", "liver"]})[1] == "heart"
    assert said({**MC, "answer": "liver"})[0] == "Which organ?\nA. liver\nB. heart"
    assert said({**MC, "question": None}) == ["A. liver\nB. heart", "heart"]
    assert said(MC, options="") == ["Which organ?", "1"]
    with pytest.raises(RecordError, match="names none of its choices: C of 2 choices"):
        read({**MC, "answer": "C"})


PMC = {"Figure_path": "a.jpg", "Question": "What is it?", "Choice A": " A:The left lung ", "Choice B": " B:The heart ",
       "Choice C": " C:A rib ", "Choice D": " D:A vein ", "Answer": "The heart", "Answer_label": "B"}  # fmt: skip
NAMED = {"image": "Figure_path", "question": "Question"}


def test_pmc_vqa() -> None:
    """With the question named by `fields` it stands as it is, unless its answer is a letter or options are named."""
    asked = "What is it?\nA. The left lung\nB. The heart\nC. A rib\nD. A vein"
    assert said(PMC) == [asked, "The heart"]
    named = read(PMC, **NAMED, answer="Answer").record
    assert [turn["text"] for turn in named["turns"]] == ["What is it?", "The heart"]
    assert named["options"] == ["The left lung", "The heart", "A rib", "A vein"]
    assert said(PMC, **NAMED, answer="Answer_label") == [asked, "The heart"]
    letters = {**PMC, "Answer": "B"}
    assert said(letters, **NAMED, answer="Answer") == [asked, "The heart"]


def test_science_qa_and_mmbench() -> None:
    science = {"image": "a.jpg", "question": "Which?", "choices": ["West", "East"], "answer": 0, "hint": "On a map."}
    assert said(science) == ["On a map.\nWhich?\nA. West\nB. East", "West"]
    mmbench = {"image": "a.jpg", "question": "Which?", "hint": "nan", "A": "x", "B": "y", "C": None, "answer": "B"}
    assert said(mmbench) == ["Which?\nA. x\nB. y", "y"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("CLOSED ", "closed"), ("Closed-Ended", "closed"), ("Yes/No", "closed"), ("yes / no", None), ("封闭", "closed"),
     ("multiple choice", "closed"), ("OPEN", "open"), ("open_ended", "open"), ("开放", "open"), ("Other", "open"),
     ("报告", "report"), ("plane", None)],
)  # fmt: skip
def test_answer_types(name: str, kind: str | None) -> None:
    record, _, notes = read({"image": "a.jpg", "question": "q", "answer": "pa", "answer_type": name})
    assert record.get("kind") == kind
    assert notes == (() if kind else (f"{UNKNOWN_KIND}: {name}",))


def test_labels_are_stripped_and_numbers_written_as_people_do() -> None:
    row = {"image": "a.jpg", "question": "q", "answer": "pa", "question_type": "ORGAN, PRES ", "patient": 7.0, "id": 3}
    record = read(row).record
    assert (record["type"], record["group"], record["id"]) == ("ORGAN, PRES", "7", "3")
    for nobody in (math.nan, "nan", " "):
        assert "group" not in read({**row, "patient": nobody}).record


def test_languages() -> None:
    row = {"image": "a.jpg", "question": "有吗？", "answer": "yes"}
    assert read({**row, "q_lang": "English "}).record["language"] == "en"
    record, _, notes = read({**row, "q_lang": "klingon"})
    assert (record["language"], notes) == ("zh", (f"{UNKNOWN_LANGUAGE}: klingon",))
    both = {"image": "a.jpg", "question": "Which organ?", "caption_en": "heart", "caption_zh": "心脏"}
    found = read(both)
    assert [turn["text"] for turn in found.record["turns"]] == ["Which organ?", "heart"]
    assert len(found.notes) == 1
    more = read({"image": "a.jpg", "captions": {"en": ["a"], "fr": ["b"]}})
    assert (more.record["captions"], more.notes) == ({"en": ["a"]}, (OTHER_LANGUAGE,))


def test_what_a_dialogue_leaves_out_is_told() -> None:
    said = [("system", "Be brief."), ("human", "What?"), ("chatgpt", "A <image>."), ("human", "So?")]
    row = {"image": "a.jpg", "conversations": [{"from": who, "value": text} for who, text in said]}
    assert read(row).notes == (SYSTEM, UNANSWERED, MARK_IN_ANSWER)


def test_pictures() -> None:
    row = {"question": "q", "answer": "a"}
    assert read({**row, "image": 12.0}).pictures == ["12"]
    assert read({**row, "images": ["a.jpg", None, ""]}).pictures == ["a.jpg"]
    encoded = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
    for text in (encoded, f"data:image/png;base64,{encoded}"):
        (picture,) = read({**row, "image": text}).pictures
        assert isinstance(picture, bytes)
        assert picture[1:4] == b"PNG"
    with pytest.raises(RecordError, match="a picture must be a path: found true"):
        read({**row, "image": True})


def test_own_records_keep_what_they_hold() -> None:
    turns = [{"role": "user", "text": "Red?"}, {"role": "assistant", "text": "yes"}]
    own = {"id": "1", "image": "a.jpg", "image_id": 5, "turns": turns, "answers": ["yes", None, "no"], "kind": "closed",
           "captions": {"zh": ["狗"], "fr": ["chien"]}, "options": ["yes", "no"], "source": "s", "type": "colour",
           "language": "en"}  # fmt: skip
    record, _, notes = read(own)
    assert record == {**own, "answers": ["yes", "no"]}
    assert notes == (EMPTY,)
    with pytest.raises(RecordError, match="image_id must be"):
        read({**own, "image_id": -1})


def test_captions_of_convert() -> None:
    assert list(texts_of(["a", None, math.nan, {"raw": "b"}], "en")) == [("en", "a"), ("en", "b")]
