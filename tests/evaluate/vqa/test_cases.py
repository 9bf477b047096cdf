"""What stands among the worst and the best cases of the page, and that a card shows everything."""

from dataclasses import replace

import pytest
import torch
from made_questions import made_question

from vglm_train.evaluate.vqa.evaluator import VqaResult
from vglm_train.evaluate.vqa.page import CASES, choose_cases, render_cases
from vglm_train.evaluate.vqa.scores import score_answer
from vglm_train.prompt.dialogue import Dialogue, Turn

COLOURS = ["red", "green", "blue", "white", "black", "yellow"]


def found(items, **outputs) -> VqaResult:
    scores = {
        system: [score_answer(item, text) for item, text in zip(items, texts)] for system, texts in outputs.items()
    }
    return VqaResult(outputs, scores, {}, {}, {})


def cases(wrong: int, right: int):
    """So many wrong and right answers, in turns as far as it goes."""
    order = sorted([*((n, "no") for n in range(wrong)), *((n, "red") for n in range(right))])
    items = [made_question(0, "colour?", "red") for _ in order]
    outputs = found(items, model=[text for _, text in order])
    return items, outputs, *choose_cases("vqa", items, outputs)


@pytest.mark.parametrize(
    ("wrong", "right", "worst", "best"),
    [
        (0, 20, "no wrong answer", "12 shown of 20 right answers"),
        (1, 12, "one wrong answer, the only one", "all 12 right answers"),
        (3, 2, "all 3 wrong answers", "all 2 right answers"),
        (20, 0, "12 shown of 20 wrong answers", "no right answer"),
    ],
)
def test_only_wrong_ones_are_worst_and_only_right_ones_best(wrong, right, worst, best):
    items, outputs, low, high = cases(wrong, right)
    assert (low.title, high.title) == (f"Worst cases: {worst}", f"Best cases: {best}")
    assert (len(low.indices), len(high.indices)) == (min(wrong, CASES), min(right, CASES))
    assert all(outputs.outputs["model"][index] == "no" for index in low.indices)
    assert all(outputs.outputs["model"][index] == "red" for index in high.indices)
    html = render_cases(low, items, outputs) + render_cases(high, items, outputs)
    assert worst in html
    assert html.count('class="case"') == len(low.indices) + len(high.indices)


def test_of_equal_cases_not_only_the_first_source_is_shown():
    items = [made_question(0, "colour?", "red", key=f"{n}", source="a" if n < 20 else "b") for n in range(40)]
    worst, _ = choose_cases("vqa", items, found(items, model=["no"] * 40))
    assert {items[index].source for index in worst.indices} == {"a", "b"}
    turned = items[::-1]
    again, _ = choose_cases("vqa", turned, found(turned, model=["no"] * 40))
    assert [turned[index].key for index in again.indices] == [items[index].key for index in worst.indices]


def test_what_tells_most_comes_first():
    """Wrong where another picture was right; right where another picture was wrong."""
    items = [made_question(0, "colour?", "red") for _ in range(4)]
    outputs = found(items, model=["no", "no", "red", "red"], shuffled=["no", "red", "red", "no"])
    worst, best = choose_cases("vqa", items, outputs)
    assert (worst.indices, best.indices) == ([1, 0], [3, 2])


def test_reports_are_right_by_degrees():
    truths = [f"a {colour} wall behind a tree" for colour in COLOURS]
    items = [made_question(n, "report", truth, kind="report") for n, truth in enumerate(truths)]
    said = [truths[0], truths[1], "a wall", "nothing else", "a tree behind", truths[5]]
    worst, best = choose_cases("report", items, found(items, model=said))
    assert worst.indices == [3, 2, 4]
    assert best.indices == [5, 1, 0]
    assert worst.title == "Worst cases: all 3 reports of the lower half by f1"
    worst, best = choose_cases("report", items, found(items, model=truths))
    assert (len(worst.indices), len(best.indices)) == (0, 6)  # none of these is bad
    worst, best = choose_cases("report", items, found(items, model=["nothing else"] * 6))
    assert (len(worst.indices), len(best.indices)) == (3, 0)  # none of these is good
    assert set(worst.indices) <= set(range(6))


def test_a_card_shows_all_pictures_and_all_texts():
    history = (Turn("first <b>?", "one\ntwo"),)
    item = replace(
        made_question(0, "其中哪一个？", "红", "红", "红色"),
        key="t-7",
        pixels=torch.zeros(3, 3, 16, 16, dtype=torch.uint8),
        dialogue=Dialogue("其中哪一个？", None, history, "zh", 3),
        picture="images/a & b.jpg",
    )
    outputs = found([item], model=[""], majority=["绿"])
    worst, _ = choose_cases("vqa", [item], outputs)
    html = render_cases(worst, [item], outputs)
    assert html.count("data:image/jpeg;base64,") == 3
    assert 'lang="zh"' in html
    for text in (
        "first &lt;b&gt;?\none\ntwo",
        "其中哪一个？",
        "红 | 红色",
        "(nothing)",
        "绿",
        "t-7 images/a &amp; b.jpg",
    ):
        assert f">{text}<" in html
    assert "shuffled" not in html
    assert "another picture" not in html
