"""Columns that look like text and that nobody reads are named."""

import logging
from pathlib import Path
from typing import Any

import made_tables
import pytest

from vglm_train.config.data import Data, Fields, Holdout, Source
from vglm_train.data.splits import open_part, training, validating
from vglm_train.data.tables.fields import resolve
from vglm_train.data.tables.unread import unread_texts

VQA = {"image": "images/0.jpg", "question": "Which organ?", "answer": "heart"}


def unread(*rows: dict[str, Any], **fields: str) -> dict[str, str]:
    keys = dict.fromkeys(key for row in rows for key in row)
    return unread_texts(rows, resolve("t.json", list(keys), Fields(**fields)))


@pytest.mark.parametrize(
    "more",
    [{"rationale": "It beats."}, {"solution": "heart!"}, {"system": "Brief."}, {"befund": "ein grosses Herz"},
     {"备注": "心影增大明显"}, {"notes": [["a b", "c d"]]}, {"more": {"deep": {"er": "some words"}}},
     {"instruction": "Answer briefly."}, {"response": "the heart"}],
)  # fmt: skip
def test_named(more: dict[str, Any]) -> None:
    assert list(unread({**VQA, **more})) == list(more)


@pytest.mark.parametrize(
    "more",
    [{"hint": "Seen from above."}, {"input": "Be brief."}, {"history": [["First?", "One."]]},
     {"options": ["a b", "c d"]}, {"patient": "John Doe"}, {"answer_type": "closed ended"}, {"width": 512},
     {"url": "https://example.org/a%20b"}, {"code": "x17"}, {"rephrase": "NULL"}, {"same": "Which organ?"},
     {"rationale": None}, {"rationale": float("nan")}, {"answer_label": "heart"},
     {"A": "left lung", "B": "right lung"}],
)  # fmt: skip
def test_not_named(more: dict[str, Any]) -> None:
    assert unread({**VQA, **more}) == {}


def test_what_is_mapped_is_read() -> None:
    row = {**VQA, "rationale": "It beats."}
    assert unread(row, context="rationale") == {}
    assert list(unread(row, answer="rationale")) == ["answer"]
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "It."}]
    assert list(unread({"image": "a", "conversations": turns, "question": "What is it?", "answer": "x"})) == [
        "question",
        "answer",
    ]
    assert list(unread({"image": "a", "caption": "a dog", "report": "a dog on grass", "hint": "see below"})) == [
        "report",
        "hint",
    ]


def test_the_same_in_every_row_is_no_text_of_theirs() -> None:
    rows = [{**VQA, "evaluation": "not evaluated", "comment": f"number {'abc'[n]}"} for n in range(3)]
    assert list(unread(*rows)) == ["comment"]
    assert list(unread(*[{**VQA, "system": "Be brief."}] * 3)) == ["system"]


def test_training_says_it_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = made_tables.pictures(tmp_path, 40)
    rows = made_tables.visualglm(names, rationale="It beats.")
    rows[3]["label"], rows[4]["prompt"], rows[5]["prompt"] = ["a", None], None, float("nan")
    source = Source(name="t", table=str(made_tables.write_json(tmp_path / "t.json", rows)))
    data = Data(train=(source,), holdout=Holdout(by="image", share=0.3))
    with caplog.at_level(logging.WARNING):
        for part in [*training(data), *validating(data)]:
            open_part(part, ("en",))
    assert [each.getMessage() for each in caplog.records] == [
        f"{tmp_path}/t.json: not read, though it looks like text: 'rationale' ('It beats.'). To put it before the "
        "question: fields.context: rationale; to learn it: fields.answer: rationale",
        f"{tmp_path}/t.json: 1 rows with an empty one among several answers or captions (null, NaN, nan), left out; "
        "2 rows with no question, so that the answer is read as a caption. vglm data check_table names the "
        "first of each",
    ]
