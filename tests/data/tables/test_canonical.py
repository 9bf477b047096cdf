"""Rows in every layout become the same records."""

from typing import Any

import pytest

from vglm_train.config.data import Fields
from vglm_train.data.record import RecordError
from vglm_train.data.tables.canonical import NoPicture, to_record
from vglm_train.data.tables.fields import resolve
from vglm_train.errors import UserError


def read(row: dict[str, Any], **fields: str) -> tuple[dict[str, Any], list]:
    return to_record(row, resolve("t.json", list(row), Fields(**fields)))


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": role, "text": text} for role, text in zip(("user", "assistant") * len(texts), texts)]


def test_visualglm() -> None:
    row = {"img": "a.png", "prompt": "这张图片的背景里有什么内容？", "label": "蓝天"}
    expected = {"turns": turns(row["prompt"], "蓝天"), "language": "zh", "image": "a.png"}
    assert read(row) == (expected, ["a.png"])


def test_llava() -> None:
    said = [("human", "<image>\nWhat?"), ("gpt", "A dog."), ("human", "Where?"), ("gpt", "At home."), ("human", "So?")]
    row = {"id": 7, "image": "a.jpg", "conversations": [{"from": who, "value": text} for who, text in said]}
    expected = {
        "id": "7",
        "turns": turns("<image>\nWhat?", "A dog.", "Where?", "At home."),
        "language": "en",
        "image": "a.jpg",
    }
    assert read(row) == (expected, ["a.jpg"])


def test_messages_with_parts_and_several_pictures() -> None:
    asked = [{"type": "image", "image": "a.jpg"}, {"type": "image"}, {"type": "text", "text": "Same?"}]
    said = [("system", "Be brief."), ("user", asked), ("assistant", "No.")]
    row = {"images": ["a.jpg", "b.jpg"], "messages": [{"role": role, "content": content} for role, content in said]}
    record, pictures = read(row)
    assert record["turns"] == turns("<image>\n<image>\nSame?", "No.")
    assert record["image"] == pictures == ["a.jpg", "b.jpg"]
    with pytest.raises(RecordError, match="2 <image> marks for 1 picture"):
        read({"image": "", **row, "images": []})
    del asked[1]
    assert read({"image": "", **row, "images": []})[1] == ["a.jpg"]


def test_captions_of_annotations_and_by_language() -> None:
    assert read({"image_id": 12, "caption": "胸部正常"})[0]["captions"] == {"zh": ["胸部正常"]}
    assert read({"image_id": 12, "caption": "胸部正常"})[1] == ["12"]
    record, _ = read({"image": "a.jpg", "captions_en": ["a", "b"], "captions_zh": ["甲"]})
    assert record["captions"] == {"en": ["a", "b"], "zh": ["甲"]}


def test_our_own_records_keep_their_picture_hash() -> None:
    record, _ = read({"id": "x", "image": "a.jpg", "image_id": 5, "captions": {"en": ["a"], "zh": []}})
    assert record == {"id": "x", "image": "a.jpg", "image_id": 5, "captions": {"en": ["a"]}, "language": "en"}
    assert "image_id" not in read({"image": "a.jpg", "image_id": 458752, "question": "q", "answer": "a"})[0]


def test_ten_answers_teach_the_commonest() -> None:
    row = {"image": "a.jpg", "question": "Red?", "answers": [{"answer": a} for a in ("no", "yes", "yes")]}
    record, _ = read(row | {"answer_type": "yes/no"})
    assert record["turns"] == turns("Red?", "yes")
    assert record["answers"] == ["no", "yes", "yes"]
    assert record["kind"] == "closed"


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"answer_type": "OPEN"}, "open"),
        ({"type": "report"}, "report"),
        ({"type": "plane"}, None),
        ({"options": ["pa", "ap"]}, "closed"),
        ({"type": "report", "kind": "open"}, "open"),
    ],
)
def test_kind_is_what_the_row_says(more: dict[str, Any], kind: str | None) -> None:
    record, _ = read({"image": "a.jpg", "question": "q", "answer": "pa"} | more)
    assert record.get("kind") == kind
    assert record.get("type") == more.get("type")


def test_pictures_as_datasets_keeps_them() -> None:
    record, pictures = read({"image": {"bytes": b"x", "path": "a.jpg"}, "text": "a dog"})
    assert (record["image"], pictures) == ("", [b"x"])
    assert read({"image": {"bytes": None, "path": "a.jpg"}, "text": "a dog"})[1] == ["a.jpg"]


@pytest.mark.parametrize(
    ("row", "cause", "reason"),
    [
        ({"image": "a", "prompt": "q", "label": " "}, "caption", "no answer"),
        ({"image": "a", "prompt": "q", "label": {"x": "y"}}, "record", "must be a text"),
        ({"image": 1.5, "prompt": "q", "label": "a"}, "record", "must be a path"),
        ({"image": "a", "conversations": "hello"}, "record", "list of turns"),
        ({"image": "a", "conversations": [{"from": "alien", "value": "a"}]}, "record", "'alien'"),
        ({"image": "a", "conversations": [{"from": "gpt", "value": "a"}] * 2}, "caption", "without an answer"),
        ({"image": "a", "turns": turns("", "", "", "a")[1:]}, "record", "begins with an answer"),
        ({"image": "a", "turns": turns("q", " ")}, "caption", "is empty"),
    ],
)
def test_damage(row: dict[str, Any], cause: str, reason: str) -> None:
    with pytest.raises(RecordError, match=reason) as caught:
        read(row)
    assert caught.value.cause == cause


def test_text_alone() -> None:
    with pytest.raises(NoPicture):
        read({"image": None, "question": "q", "answer": "a"})


def test_named_fields_come_first() -> None:
    row = {"image": "a.jpg", "text": "not this", "befund": "this", "fall": 3}
    record, _ = read(row, answer="befund", group="fall")
    assert record["captions"] == {"en": ["this"]}
    assert record["group"] == "3"


@pytest.mark.parametrize(
    ("row", "fields", "reason"),
    [
        (
            {"picture": "a", "label": "b"},
            {},
            r"picture \(image, img, .*; the rows have 'picture', 'label'.*fields.image",
        ),
        ({"img": "a", "prompt": "b"}, {}, r"hold an answer .*label.*the rows have 'img', 'prompt'.*fields.answer"),
        ({"img": "a", "label": "b"}, {"answer": "lable"}, "fields.answer asks for 'lable'.*Did you mean 'label'"),
    ],
)
def test_wrong_keys(row: dict[str, Any], fields: dict[str, str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        read(row, **fields)
