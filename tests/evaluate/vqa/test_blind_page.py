"""The blind page in a real Chromium: a person gets the scores that the evaluation would give."""

import json
import random
import unicodedata

import pytest
from blind_reader import check_scores, read_all, saved
from made_blind import SKIP

from vglm_train.evaluate.metrics import answers, vqav2
from vglm_train.evaluate.metrics.answers import commonest
from vglm_train.evaluate.vqa.blind import rules

SCORES = """content => {
  const [rules, pairs] = JSON.parse(content), scorer = new Scorer(rules);
  const found = ([one, other]) => [scorer.normalised(one), scorer.spoken(one), scorer.overlap(one, other)];
  return JSON.stringify(pairs.map(found));
}"""


def test_words_are_compared_as_the_evaluation_compares_them(made, window):
    """Every letter that Python knows below the rarer Chinese ones, and texts of what the rules are about."""
    usual = [*range(0x4E10), *range(0x9F00, 0xAC10), *range(0xD790, 0x20010)]
    letters = [chr(code) for code in usual if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")]
    thirds = zip(letters[::3], letters[1::3], letters[2::3])
    texts = [f"The {one}{two}{three}'s 1{one}5, a{two} {three}." for one, two, three in thirds]
    rng = random.Random(0)
    pieces = [
        *"aA.,'’?!;/()[]{}\"=+\\_-><@` \t\u3000\u00a0\x1c\x85ßİΣς", "ſ", "ﬁ", "Ａ", "１", "²", "½", "Ⅳ", *"是红不",
        "1.5", "1,000", "dont", "wont", "the ", " an", "none", " two", "its", "youre", "constructor", "toString", "肺 ",
        "e\u0301", "x-ray", "10", "no.",
    ]  # fmt: skip
    texts += ["".join(rng.choices(pieces, k=rng.randint(1, 9))) for _ in range(4000)]
    others = [" ".join(rng.choices(text.split() or [""], k=4)) for text in texts]
    content = json.dumps([rules(), list(zip(texts, others))])
    found = json.loads(window(made).evaluate(SCORES, content))
    assert len(found) == len(texts) > 12_000
    expected = [
        [answers.normalised(text), vqav2.normalised(text), list(answers.overlap(text, other))]
        for text, other in zip(texts, others)
    ]
    wrong = [(ascii(text), own, right) for text, own, right in zip(texts, found, expected) if own != right]
    assert wrong[:3] == []


def test_a_person_gets_the_scores_of_the_evaluation(made, window, tmp_path):
    page = window(made)
    read_all(page, made.answers)
    content = saved(page, tmp_path / "answers.json")
    check_scores(content["scores"], made.expected(made.answers))
    assert {"accuracy", "closed", "exact", "recall", "f1", "v2"} == content["scores"].keys()
    shown = page.locator("#main").inner_text()
    assert "9 of 10 questions answered; 1 skipped" in shown
    accuracy = content["scores"]["accuracy"]
    assert f"accuracy: you {accuracy['you']['value']:.1f} %, the model {accuracy['model']['value']:.1f} %" in shown
    assert "made for a test" in page.locator("#verdict").inner_text()


def test_all_right_is_as_sure_as_patients_are_many(made, window, tmp_path):
    """100 per cent has an interval too, which depends on how many patients there are, not questions."""
    page = window(made)
    right = [commonest(made.items[index].answers) for index in made.order]
    right = ["否" if answer == "不是" else answer for answer in right]
    read_all(page, right)
    found = saved(page, tmp_path / "answers.json")["scores"]
    check_scores(found, made.expected(right))
    assert found["accuracy"]["you"]["value"] == 100
    assert found["accuracy"]["you"]["ends"][0] == pytest.approx(100 * 0.025 ** (1 / 7))


def test_marked_findings_get_the_scores_of_reports(made_report, window, tmp_path):
    page = window(made_report)
    read_all(page, made_report.answers)
    found = saved(page, tmp_path / "answers.json")["scores"]
    expected = made_report.expected(made_report.answers)
    assert found.keys() == {"finding_recall", "finding_precision", "normal", "normal_truth"}
    for name in ("recall", "f1", "finding_side"):  # of texts, and of sides, which nobody marks
        expected.scores.pop(name, None)
    check_scores(found, expected)
    assert "marked by yourself" in page.locator(".case").first.inner_text()


@pytest.mark.parametrize("given", [[SKIP] * 10, ["yes", *[SKIP] * 9]])
def test_nearly_all_skipped(made, window, given, tmp_path):
    order = [made.items[index].key for index in made.order]
    at = order.index("q0")
    given = [given[0] if n == at else SKIP for n in range(10)]
    page = window(made)
    read_all(page, given)
    shown = page.locator("#main").inner_text()
    if given[at] is SKIP:
        assert "No question was answered" in shown
        assert not page.locator("#scores").count()
    else:
        check_scores(saved(page, tmp_path / "answers.json")["scores"], made.expected(given))
        assert "too few to tell, 1 patients or pictures" in shown
