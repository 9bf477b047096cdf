"""What one cell says: values, no values, and those that are no text."""

import math
from typing import Any

import pytest

from vglm_train.data.record import RecordError
from vglm_train.data.tables.cells import answer_text, caption_text, doubt, is_missing, number_text


@pytest.mark.parametrize("cell", [None, math.nan, math.inf, -math.inf, "", " \n", [], {}, (), [None, math.nan, [""]]])
def test_no_value(cell: Any) -> None:
    assert is_missing(cell)


@pytest.mark.parametrize("cell", [0, 0.0, False, "0", "nan", [None, 0], {"a": None}, 10**400])
def test_a_value(cell: Any) -> None:
    assert not is_missing(cell)


@pytest.mark.parametrize(
    ("cell", "asked", "described"),
    [
        ("nan", None, None), ("NaN", None, None), (" NULL ", None, None), ("<NA>", None, None), ("#N/A", None, None),
        ("None", "None", None), ("none", "none", None), ("N/A", "N/A", None), ("NA", "NA", None),
        (None, None, None), (math.nan, None, None), ("", None, None),
        (" a nodule ", "a nodule", "a nodule"), ("nankeen", "nankeen", "nankeen"), ("True", "True", "True"),
        ("3.0", "3.0", "3.0"),
    ],
)  # fmt: skip
def test_texts(cell: Any, asked: str | None, described: str | None) -> None:
    """None may be the answer to "Is there effusion?", and is never a caption."""
    assert (answer_text(cell, "Which?"), caption_text(cell)) == (asked, described)


@pytest.mark.parametrize(
    ("cell", "question", "text"),
    [
        (True, "Is there effusion?", "yes"), (False, "Is there effusion?", "no"),
        (True, "有积液吗？", "是"), (False, "有积液吗？", "否"),
        (3, "q", "3"), (0, "q", "0"), (2.0, "q", "2"), (12.5, "q", "12.5"), (-1.0, "q", "-1"), (1e300, "q", "1e+300"),
        (10**400, "q", str(10**400)),
    ],
)  # fmt: skip
def test_booleans_and_numbers(cell: Any, question: str, text: str) -> None:
    assert answer_text(cell, question) == text
    with pytest.raises(RecordError, match="a caption must be a text: found") as caught:
        caption_text(cell)
    assert caught.value.cause == "caption"


def test_what_is_no_text() -> None:
    for cell in ({"a": 1}, ["a"], b"a"):
        with pytest.raises(RecordError, match="an answer must be a text: found"):
            answer_text(cell, "q")


@pytest.mark.parametrize(
    ("text", "asked", "what"),
    [("None", True, "None or N/A"), ("TRUE", True, "True or False"), ("3.0", True, "a number written as 3.0"),
     ("17", False, "without a letter"), ("yes", True, None), ("3", True, None), ("狗", False, None)],
)  # fmt: skip
def test_what_is_used_and_told(text: str, asked: bool, what: str | None) -> None:
    found = doubt(text, asked)
    assert (found is None) if what is None else (what in str(found))


def test_numbers() -> None:
    assert [number_text(number) for number in (7, 7.0, 0.1, math.nan)] == ["7", "7", "0.1", None]
