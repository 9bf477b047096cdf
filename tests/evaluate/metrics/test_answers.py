"""Scorers of short answers by hand, with the known errors of the usual script as regressions."""

from dataclasses import replace

import pytest
from made_questions import made_question

from vglm_train.evaluate.metrics import vqav2
from vglm_train.evaluate.metrics.answers import closed, exact, normalised, overlap, polarity, question_options
from vglm_train.evaluate.vqa.scores import closed_options, score_answer, total_scores


def test_no_is_not_found_inside_another_word():
    """LLaVA-Med's substring test finds "no" in "normal" and calls this right."""
    assert not closed("The heart looks normal.", "no")
    assert not closed("It is abnormal; the nodule is known.", "no")


def test_every_answer_counts():
    """LLaVA-Med leaves out an answer that holds neither truth nor the opposite, or the opposite alone."""
    items = [made_question(0, "is it?", "yes", kind="closed") for _ in range(4)]
    outputs = ["yes", "no", "the picture shows a chest", ""]
    assert total_scores([score_answer(item, output) for item, output in zip(items, outputs)])["closed"] == 25


def test_closed_is_not_only_yes_and_no():
    """LLaVA-Med gives nothing for a choice other than yes and no."""
    assert closed("CT", "ct")
    assert closed("This is a CT scan.", "ct", ["ct", "mri"])
    assert not closed("This is an MRI scan.", "ct", ["ct", "mri"])


def test_closed_and_open_are_not_swapped():
    closed_one, open_one = made_question(0, "is it?", "yes", kind="closed"), made_question(0, "what?", "lung")
    found = total_scores([score_answer(closed_one, "yes"), score_answer(open_one, "heart")])
    assert found == {"closed": 100, "accuracy": 50, "exact": 0, "recall": 0, "f1": 0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes, no fracture", True),
        ("No, yes", False),
        ("There isn’t any", False),
        ("It cannot be seen", False),
        ("Normal", None),
        ("", None),
        ("know", None),
        ("是的，没有骨折", True),
        ("不是", False),
        ("没有", False),
        ("肺部没有异常", False),
        ("图像中有积液", True),
        ("可能所有都正常", None),
        ("对称", None),
        ("无法判断", None),
        ("正常", None),
    ],
)
def test_polarity(text, expected):
    assert polarity(text) is expected


@pytest.mark.parametrize(
    ("output", "truth", "choices", "right"),
    [
        ("left", "left", (), True),
        ("the left", "left", (), True),
        ("on the left side", "left", (), False),  # what else could be said is not known
        ("on the left side", "left", ("left", "right"), True),
        ("left and right", "left", ("left", "right"), False),
        ("not left but right", "right", ("left", "right"), True),
        ("lower left lung", "left lung", ("left lung", "lung"), True),
        ("右侧", "右侧", ("左侧", "右侧"), True),
        ("病灶在右侧。", "右侧", ("左侧", "右侧"), True),
        ("不是左侧，是右侧", "左侧", ("左侧", "右侧"), False),
        ("是的", "是", (), True),
        ("有", "没有", (), False),
    ],
)
def test_choices(output, truth, choices, right):
    assert closed(output, truth, choices) is right


def test_choices_are_read_from_the_question():
    assert question_options("Is this a CT or an MRI?", "CT") == ["ct", "mri"]
    assert question_options("Is the lesion on the left or right side?", "right") == ["left", "right"]
    assert question_options("病灶在左侧还是右侧？", "左侧") == ["右 侧", "左 侧"]
    assert question_options("Where is the lesion?", "left") == []
    assert question_options("Is it small or large?", "left") == []


def test_choices_come_from_the_same_question_or_type():
    items = [
        made_question(0, "which side?", "left", kind="closed"),
        made_question(1, "Which side", "right", kind="closed"),
        made_question(2, "what is it?", "ct", kind="closed", type="modality"),
        made_question(3, "what kind?", "mri", kind="closed", type="modality"),
        made_question(4, "is it?", "yes", kind="closed", type="modality"),
        made_question(5, "which side?", "both", kind="open"),
    ]
    assert closed_options(items)[0] == closed_options(items)[1] == ["left", "right"]
    assert closed_options(items)[2] == ["ct", "mri"]
    assert score_answer(items[2], "a ct scan", closed_options(items)[2])["closed"] == (1.0, 1.0)


def test_words():
    assert normalised("The X-ray's 2.5 cm, of COVID-19!") == ["x", "rays", "2.5", "cm", "of", "covid", "19"]
    assert normalised("A") == ["a"]
    assert normalised("红色，ＣＴ") == ["红", "色", "ct"]
    assert exact("A chest, X-ray", "chest x ray")
    assert not exact("chest", "chest x-ray")


def test_overlap_by_hand():
    assert overlap("left lower lobe pneumonia", "pneumonia of the left lobe") == (3 / 4, 2 * 3 / 8)
    assert overlap("红墙", "红色的墙") == (2 / 4, 2 * 2 / 6)
    assert overlap("", "lung") == (0.0, 0.0)
    assert overlap("lung lung", "lung") == (1.0, 2 / 3)


def test_the_best_of_several_answers_counts():
    item = made_question(0, "what?", "lung", "left lung")
    assert score_answer(item, "left lung")["exact"] == (1.0, 1.0)
    assert score_answer(item, "left lung")["recall"] == (1.0, 1.0)


@pytest.mark.parametrize(("agree", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqav2_accuracy(agree, expected):
    answers = ["red"] * agree + [f"other {n}" for n in range(10 - agree)]
    assert vqav2.accuracy("Red.", answers) == pytest.approx(expected)
    assert score_answer(made_question(0, "what?", *answers), "red")["v2"] == pytest.approx((expected, 1.0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The two dogs", "2 dogs"),
        ("dont", "don't"),
        ("isn't it?", "isn't it"),
        ("its", "its"),
        ("1,000", "1000"),
        ("2.5", "2.5"),
        ("yes.", "yes"),
        ("black/white", "black white"),
        ("none", "0"),
        ("t-shirt", "t shirt"),
    ],
)
def test_vqav2_normalisation(text, expected):
    assert vqav2.normalised(text) == expected


def test_choices_that_the_row_gives() -> None:
    """A letter alone is its choice, where the question letters them."""
    item = replace(
        made_question(0, "Which organ?\nA. liver\nC. heart", "heart", kind="closed"), options=("liver", "heart")
    )
    assert closed_options([item]) == [["liver", "heart"]]
    for output in ("heart", "C", "c.", "(C)", "C. heart", "the heart"):
        assert score_answer(item, output, item.options)["closed"] == (1.0, 1.0), output
    for output in ("A", "B", "D", "liver", "liver and heart", "cat"):
        assert score_answer(item, output, item.options)["closed"] == (0.0, 1.0), output
    plain = replace(item, options=())
    assert score_answer(plain, "C", ("liver", "heart"))["closed"] == (0.0, 1.0)
