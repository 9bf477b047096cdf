"""Each rule against marks that were worked out by hand from the published programs, ten answers each."""

import dataclasses
from typing import Any

import pytest

from vglm_train.evaluate.metrics import vqav2
from vglm_train.evaluate.protocols.measure import score_answers
from vglm_train.evaluate.protocols.official import OfficialItem
from vglm_train.evaluate.protocols.schema import load_protocol

# One of each person, the answer, and ten times what the official program and LAVIS' copy give for it. Where n of ten
# people gave the answer, n of them see n - 1 others and 10 - n see n: 1 -> 3, 2 -> 6, 3 -> 9, 4 and more -> 10.
VQA: list[tuple[list[str], str, int, int]] = [
    (["red"] * 10, "red", 10, 10),
    (["red"] * 10, "Red.", 0, 10),  # all agree, so the official program processes nothing
    (["red"] * 3 + ["blue"] * 7, "The red", 9, 9),
    (["two"] * 2 + ["2"] * 1 + ["three"] * 7, "two", 9, 3),  # LAVIS leaves the people's "two" as it is
    (["t-shirt"] * 4 + ["shirt"] * 6, "t shirt", 10, 10),
    (["none"] * 1 + ["0"] * 1 + ["x"] * 8, "zero", 6, 3),
    (["dont know"] * 2 + ["no"] * 8, "don't know", 6, 0),  # LAVIS gives people no apostrophe
    (["1,000"] * 5 + ["many"] * 5, "1000", 10, 10),
    (["a dog"] * 1 + ["cat"] * 9, "dog", 3, 0),
    (["yes"] * 10, "\n yes\t", 10, 10),
]


def items(rows: list[Any], **fields: Any) -> list[OfficialItem]:
    return [OfficialItem(f"row {n}", n, "x.jpg", tuple(answers), **fields) for n, answers in enumerate(rows)]


def scores(name: str, asked: list[OfficialItem], outputs: list[str]) -> dict[str, float]:
    return score_answers(load_protocol(name), list(zip(asked, outputs))).scores


@pytest.mark.parametrize("name", ["vqav2", "okvqa"])
def test_vqa(name):
    measured = score_answers(load_protocol(name), list(zip(items([r[0] for r in VQA]), [r[1] for r in VQA])))
    for (answers, output, official, lavis), marks in zip(VQA, measured.marks):
        assert (marks["accuracy"], marks["accuracy_lavis"]) == pytest.approx((official / 10, lavis / 10)), output
        assert (vqav2.official(output, answers), vqav2.lavis(output, answers)) == tuple(marks.values())
    assert {name: round(value, 2) for name, value in measured.scores.items()} == {
        "accuracy": 73.0,
        "accuracy_lavis": 65.0,
    }


def test_by_type_is_of_the_answers_of_that_type():
    asked = [dataclasses.replace(item, type="yes/no" if n in (0, 1, 9) else "other")
             for n, item in enumerate(items([r[0] for r in VQA]))]  # fmt: skip
    measured = score_answers(load_protocol("vqav2"), list(zip(asked, [r[1] for r in VQA])))
    assert list(measured.by_type) == ["other", "yes/no"]
    assert measured.by_type["yes/no"]["accuracy"] == pytest.approx(100 * 20 / 30)
    assert measured.by_type["other"]["accuracy_lavis"] == pytest.approx(100 * (9 + 3 + 10 + 3 + 0 + 10 + 0) / 70)


GQA = [  # true answer, answer, right letter by letter, right as LAVIS has it
    ("yes", "yes", 1, 1),
    ("yes", "Yes", 0, 1),
    ("no", "no.", 0, 1),
    ("no", "yes", 0, 0),
    ("two", "2", 0, 1),  # LAVIS processes the truth too
    ("the dog", "dog", 0, 1),
    ("traffic light", "traffic-light", 0, 1),
    ("left", "on the left", 0, 0),
    ("bookcase", "bookcase", 1, 1),
    ("man", "a man", 0, 1),
]


def test_gqa():
    found = scores("gqa", items([[truth] for truth, *_ in GQA]), [output for _, output, *_ in GQA])
    assert found == {"accuracy": 20.0, "accuracy_lavis": 80.0}
    assert [sum(row[n] for row in GQA) for n in (2, 3)] == [2, 8]


CLOSED = [  # truth, answer, right by this project, LLaVA-Med's mark
    ("yes", "Yes, it is.", 1, 1),
    ("no", "The heart is normal.", 0, 1),  # "no" stands in "normal"
    ("yes", "no", 0, 0),
    ("no", "It is enlarged.", 0, 0),
    ("left", "left", 1, 1),
    ("yes", "Yes and no", 1, 1),
    ("two", "2 nodules.", 0, 1),  # a number's word becomes a digit
    ("x-ray", "An X ray", 1, 1),
    ("A", "B", 0, 1),  # the article is taken away, and what is left of the truth stands in every answer
]
OPEN = [  # truth, answer, the same words, recall by LLaVA-Med's counting
    ("left lung", "the left lung", 1, 1.0),
    ("left lung", "lung", 0, 1 / 2),
    ("left lung", "lung lung lung", 0, 3 / 4),  # its answer's words are counted as often as it says them
    ("two nodules", "2 nodules", 0, 1.0),
]


@pytest.mark.parametrize("name", ["vqa-rad", "slake", "pathvqa"])
def test_medical_questions(name):
    asked = items([[row[0]] for row in CLOSED], closed=True) + items([[row[0]] for row in OPEN])
    found = scores(name, asked, [row[1] for row in (*CLOSED, *OPEN)])
    assert found["closed_accuracy"] == pytest.approx(100 * 4 / 9)
    assert found["open_exact"] == pytest.approx(100 * 1 / 4)
    assert found["accuracy"] == pytest.approx(100 * 5 / 13)
    assert found["closed_contains_llava_med"] == pytest.approx(100 * 7 / 9)
    assert found["open_recall_llava_med"] == pytest.approx(100 * (1 + 1 / 2 + 3 / 4 + 1) / 4)


@pytest.mark.parametrize(("truth", "output", "ours", "llava_med"), CLOSED)
def test_each_closed_question_has_a_mark(truth, output, ours, llava_med):
    asked = items([[truth]], closed=True)
    assert scores("slake", asked, [output]) == {
        "accuracy": 100 * ours, "closed_accuracy": 100 * ours, "closed_contains_llava_med": 100 * llava_med,
    }  # fmt: skip


def test_a_choice_of_the_question_is_an_option():
    asked = items([["left"]], closed=True, question="Is it on the left or right?")
    assert scores("slake", asked, ["On the left side"])["closed_accuracy"] == 100
    assert scores("slake", asked, ["left or right"])["closed_accuracy"] == 0


def test_a_score_of_no_answer_is_left_out():
    found = scores("slake", items([["lung"]]), ["lung"])
    assert found.keys() == {"accuracy", "open_exact", "open_recall_llava_med"}


def test_an_empty_answer():
    assert scores("slake", items([["no"]], closed=True), [""])["closed_contains_llava_med"] == 0
    assert scores("slake", items([["lung"]]), [""])["open_recall_llava_med"] == 0
    assert scores("vqav2", items([["red"] * 10]), [""]) == {"accuracy": 0, "accuracy_lavis": 0}
