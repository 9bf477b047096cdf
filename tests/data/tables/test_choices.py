"""Choices in every layout, and which of them an answer names."""

from typing import Any

import pytest

from vglm_train.config.data import Fields
from vglm_train.data.record import RecordError
from vglm_train.data.tables.canonical import read_row
from vglm_train.data.tables.choices import (
    AMBIGUOUS,
    BY_NUMBER,
    NO_CHOICE,
    ONE_TEXT,
    SEVERAL,
    SINGLE,
    TWICE,
    chosen,
    columns_of,
    doubts,
    find_first_number,
    read_choices,
    refuse_letter,
    written,
)
from vglm_train.data.tables.fields import resolve

ORGANS = ["liver", "heart"]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (ORGANS, [("A", "liver"), ("B", "heart")]),
        (["A. liver", "B. heart"], [("A", "liver"), ("B", "heart")]),
        (["A dog", "B cat"], [("A", "A dog"), ("B", "B cat")]),
        ({"A": "liver", "B": "heart", "C": None}, [("A", "liver"), ("B", "heart")]),
        ({"label": ["1", "2"], "text": ORGANS}, [("1", "liver"), ("2", "heart")]),
        ("A. liver\nB. heart", [("A", "liver"), ("B", "heart")]),
        ("A: liver, B: heart", [("A", "liver"), ("B", "heart")]),
        ("(A) liver (B) heart", [("A", "liver"), ("B", "heart")]),
        ('["liver", "heart"]', [("A", "liver"), ("B", "heart")]),
        ("['liver', 'heart']", [("A", "liver"), ("B", "heart")]),
        ("liver|heart", [("A", "liver"), ("B", "heart")]),
        ([2.0, 3], [("A", "2"), ("B", "3")]),
        ("liver or heart", [("", "liver or heart")]),
        ([{"label": "A", "text": "liver"}, {"label": "B", "text": "heart"}], [("A", "liver"), ("B", "heart")]),
        ([{"A": "liver"}, {"B": "heart"}], [("A", "liver"), ("B", "heart")]),
        ({"a": "liver", "b": "heart"}, [("a", "liver"), ("b", "heart")]),
        ("A. liver B. heart", [("A", "liver"), ("B", "heart")]),
        ("A、肝 B、心", [("A", "肝"), ("B", "心")]),
        (["liver", None, "nan", " ", "heart"], [("A", "liver"), ("E", "heart")]),
        (["liver"], [("A", "liver")]),
        ([], []), (None, []), (float("nan"), []), ({}, []), ("", []), ([None, ""], []), ("[]", []),
    ],
)  # fmt: skip
def test_layouts(cell: Any, expected: list) -> None:
    assert [(each.letter, each.text) for each in read_choices({"options": cell}, ["options"])] == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["id", "Choice B", "Choice A", "Choice C"], ("Choice A", "Choice B", "Choice C")),
        (["option_a", "option_b"], ("option_a", "option_b")),
        (["opa", "opb", "opc", "opd", "cop"], ("opa", "opb", "opc", "opd")),
        (["option1", "option2"], ("option1", "option2")),
        (["A", "B", "C", "answer"], ("A", "B", "C")),
        (["A", "answer"], ()), (["choice_a"], ()), (["B", "C"], ()),
    ],
)  # fmt: skip
def test_a_column_each(keys: list[str], expected: tuple[str, ...]) -> None:
    assert columns_of(keys) == expected


def test_columns_hold_their_choices() -> None:
    pmc = {"Choice A": " A:The left lung ", "Choice B": " B:The heart"}
    assert [each.text for each in read_choices(pmc, columns_of(list(pmc)))] == ["The left lung", "The heart"]
    mmbench = {"A": "x", "B": None, "C": "y", "D": float("nan")}
    found = read_choices(mmbench, columns_of(list(mmbench)))
    assert [(each.letter, each.text) for each in found] == [("A", "x"), ("C", "y")]
    assert chosen("C", found, []) == found[1] == chosen(2, found, [])


@pytest.mark.parametrize(
    ("answer", "text"),
    [(1, "heart"), (0, "liver"), (1.0, "heart"), ("1", "heart"), ("B", "heart"), ("b.", "heart"), ("(B)", "heart"),
     ("Ｂ", "heart"), ("heart", "heart"), ("Heart.", "heart"), ("B. heart", "heart"), ("B: Heart", "heart")],
)  # fmt: skip
def test_an_answer_names_a_choice(answer: Any, text: str) -> None:
    notes: list[str] = []
    found = chosen(answer, read_choices({"o": ORGANS}, ["o"]), notes)
    assert found is not None
    number = not isinstance(answer, str) or answer == "1"
    assert (found.text, notes) == (text, [BY_NUMBER.format(0)] if number else [])


@pytest.mark.parametrize("answer", ["C", 2, -1, "2", "z)"])
def test_a_letter_or_number_of_no_choice(answer: Any) -> None:
    with pytest.raises(RecordError, match="the answer names none of its choices: ") as caught:
        chosen(answer, read_choices({"o": ORGANS}, ["o"]), [])
    assert caught.value.cause == "record"
    with pytest.raises(RecordError, match="that are one text: give them as a list"):
        chosen("B", read_choices({"o": "liver or heart"}, ["o"]), [])


def test_labels_that_are_numbers_count_as_they_say() -> None:
    for choices in (read_choices({"option1": "a", "option2": "b"}, ["option1", "option2"]),
                    read_choices({"o": {"1": "a", "2": "b"}}, ["o"])):  # fmt: skip
        assert [getattr(chosen(answer, choices, []), "text", None) for answer in (1, "2")] == ["a", "b"]


@pytest.mark.parametrize(
    ("cell", "answer", "text", "note"),
    [(["2", "3", "4"], "2", "2", AMBIGUOUS), (["2", "3", "4"], 2, "4", (AMBIGUOUS, BY_NUMBER.format(0))),
     ([2, 3, 4], 2, "2", AMBIGUOUS),
     (["0", "1"], "1", "1", None), (ORGANS, "kidney", None, NO_CHOICE), ("one, two", "one", None, ONE_TEXT)],
)  # fmt: skip
def test_what_is_not_certain_is_told(cell: Any, answer: Any, text: str | None, note: Any) -> None:
    notes: list[str] = []
    found = chosen(answer, read_choices({"o": cell}, ["o"]), notes)
    assert (found and found.text) == text
    assert notes == ([] if note is None else [note] if isinstance(note, str) else list(note))


def test_written_into_the_question_once() -> None:
    choices = read_choices({"o": ORGANS}, ["o"])
    assert written("Which organ?", choices) == "Which organ?\nA. liver\nB. heart"
    assert written("", choices) == "A. liver\nB. heart"
    assert written("Liver or heart?", choices) == "Liver or heart?"
    assert written("Liverwort or heart?", choices) == "Liverwort or heart?\nA. liver\nB. heart"
    assert written("Which?", read_choices({"o": "liver or heart"}, ["o"])) == "Which?\nliver or heart"


def test_a_choice_that_is_no_text() -> None:
    with pytest.raises(RecordError, match="a choice must be a text: found an object"):
        read_choices({"o": [{"x": 1}, "y"]}, ["o"])


@pytest.mark.parametrize(
    ("answers", "first"),
    [
        ([1, 2, 4], 1), (["1", "2", "4"], 1), ([1, 2, 0, 4], 0), ([1, 2, 3], 0), ([], 0), (["A", "D"], 0),
        ([None, "liver", 4], 1),
    ],
)  # fmt: skip
def test_numbers_count_from_one_where_the_first_rows_say_so(answers: list, first: int) -> None:
    four = read_choices({"o": ["liver", "heart", "lung", "bone"]}, ["o"])
    assert find_first_number([(answer, four) for answer in answers]) == first
    numbered = read_choices({"o": {"1": "a", "2": "b"}}, ["o"])
    assert find_first_number([(2, numbered), (2, []), ("2", read_choices({"o": ["2", "3"]}, ["o"]))]) == 0


def test_a_number_from_one() -> None:
    notes: list[str] = []
    two = read_choices({"o": ORGANS}, ["o"])
    assert [getattr(chosen(answer, two, notes, 1), "text", None) for answer in (1, "2")] == ORGANS
    assert set(notes) == {BY_NUMBER.format(1)}
    with pytest.raises(RecordError, match=r"names none of its choices: 0 of 2 choices, .* numbers count from 1"):
        chosen(0, two, [], 1)


def test_odd_choices_are_told() -> None:
    assert doubts(read_choices({"o": ["liver"]}, ["o"]), ["liver"]) == [SINGLE]
    assert doubts(read_choices({"o": ["Liver", "liver ", "heart"]}, ["o"]), ["liver"]) == [TWICE]
    assert doubts(read_choices({"o": ORGANS}, ["o"]), ORGANS) == [SEVERAL]
    assert doubts(read_choices({"o": ORGANS}, ["o"]), ["liver"] * 3) == doubts([], ORGANS) == []


@pytest.mark.parametrize("answer", ["A", "(B)", "C.", "Ｄ", " A "])
def test_a_letter_without_choices_is_no_answer(answer: str) -> None:
    with pytest.raises(RecordError, match="the letter of a choice, but the row has no choices: "):
        refuse_letter(answer, "Which organ?")
    refuse_letter(answer, "Which organ? A. liver B. heart")
    for other in ("a", "I", "A liver", "AB", 1, None, "yes"):
        refuse_letter(other, "Which organ?")


@pytest.mark.parametrize("empty", [[], None, "", {}, [None]])
def test_rows_whose_choices_are_gone(empty: Any) -> None:
    """A letter names nothing there; a number or a text may be an answer of its own."""
    columns = resolve("t", ("image", "question", "answer", "options"), Fields())
    row = {"image": "0.jpg", "question": "Which?", "options": empty}
    with pytest.raises(RecordError, match="the answer is the letter of a choice, but the row has no choices: A"):
        read_row(row | {"answer": "A"}, columns)
    with pytest.raises(RecordError, match="the letter of a choice"):
        read_row(row | {"answer": ["B", "B"]}, columns)
    assert [read_row(row | {"answer": answer}, columns).record["turns"][1]["text"] for answer in (2, "liver")] == [
        "2",
        "liver",
    ]
