"""Caption scores agree with the numbers a person works out, and say what made them."""

import math
import os
import sys

import numpy as np
import pytest

from vglm_train.errors import UserError
from vglm_train.evaluate import metrics
from vglm_train.evaluate.metrics import coco, java, text_scores
from vglm_train.evaluate.metrics.bootstrap import mean_interval

EN_REFERENCES = [
    ["A dog runs on the grass.", "The dog is running outside."],
    ["Two cats sleep."],
    ["A red car, parked."],
]
ZH_REFERENCES = [["一只红色的狗在草地上奔跑。", "狗在跑。"], ["两只猫在睡觉。"], ["一辆红色的汽车停着。"]]
EN_NAMES = {"bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider"}
ZH_NAMES = {
    "bleu4",
    "bleu4_word",
    "bleu4_corpus",
    "rouge_1",
    "rouge_2",
    "rouge_l",
    "rouge_l_char",
    "cider",
    "cider_char",
}


@pytest.fixture
def no_java(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def with_java():
    try:
        java.tokenize(["a"])
    except java.NoJava as error:
        pytest.skip(f"{error}: the PTB tokenizer and METEOR were not tested")


def first(references):
    return [texts[0] for texts in references]


def test_the_references_themselves_score_best_and_others_nothing(no_java):
    for language, references, names in (("en", EN_REFERENCES, EN_NAMES), ("zh", ZH_REFERENCES, ZH_NAMES)):
        same = text_scores(language, references, first(references)).scores
        wrong = text_scores(language, references, ["qqq"] * 3).scores
        assert same.keys() == wrong.keys() == names
        for name in names - {"cider", "cider_char"}:
            assert same[name] > 99 or name == "bleu4"  # three words have no fourgram
            assert wrong[name] < 1, name
        assert same["cider"] > 100
        assert wrong["cider"] < 1


def test_bleu_by_hand():
    # 3 of 4 words and 2 of 3 pairs are in the reference, which is as long
    found = coco.bleu([["a b c d"]], ["a b c x"])
    assert found[:2] == pytest.approx([75.0, 100 * math.sqrt(3 / 4 * 2 / 3)], rel=1e-6)
    # a shorter text pays the brevity penalty
    assert coco.bleu([["a b c d"]], ["a b"])[0] == pytest.approx(100 * math.exp(1 - 4 / 2), rel=1e-6)


def test_rouge_l_by_hand():
    precision, recall, beta = 2 / 3, 2 / 4, 1.2
    expected = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    assert coco.rouge_l([["a b c d"]], ["a x c"]) == pytest.approx(100 * expected)


def test_cider_weighs_rare_words():
    references = [["a dog"], ["a cat"], ["a bird"]]
    common, rare = coco.cider(references, ["a", "a", "a"]), coco.cider(references, ["dog", "cat", "bird"])
    assert common == 0  # a word that all images have tells nothing
    assert rare > 50


def test_tokenizer_without_java_is_named_once(no_java):
    found = text_scores("en", EN_REFERENCES, ["a dog runs on the grass", "cats", "a red car parked"])
    assert "nltk" in found.made_by["tokenizer"]
    assert "meteor" not in found.scores
    assert len(found.notes) == 1
    assert "java" in found.notes[0]
    assert "no METEOR" in found.notes[0]
    assert found.scores["bleu1"] > 60  # case and punctuation do not count


def test_java_programs_and_odd_texts(with_java):
    """In one go, since METEOR takes seconds to start."""
    assert [text.split() for text in java.tokenize(["", "A café.", ""])] == [[], ["a", "café"], []]
    odd = ["", "a\nb\u2028c\x85d\re", "||| a ||| b", "...", "café 狗 🐕", " "]
    outputs = ["A dog runs on the grass.", "Two kittens sleep.", "An automobile.", *odd]
    found = text_scores("en", [*EN_REFERENCES, *[["a b c d e"]] * len(odd)], outputs)
    assert found.notes == ()
    assert "PTBTokenizer" in found.made_by["tokenizer"]
    assert found.scores.keys() == EN_NAMES | {"meteor"}
    assert all(1 < value < 99 for name, value in found.scores.items() if name != "cider")


def test_only_the_speed_of_the_tokenizer_is_not_printed(capfd):
    """What other programs write to stderr is kept, whichever way it goes there."""
    with java._without_lines("PTBTokenizer "):
        os.write(2, b"PTBTokenizer tokenized 3 tokens.\nfrom a program\n")
        print("from here", file=sys.stderr)
    os.write(2, b"after\n")
    assert sorted(capfd.readouterr().err.splitlines()) == ["after", "from a program", "from here"]


def test_java_that_fails_costs_its_scores_only(monkeypatch, tmp_path):
    broken = tmp_path / "java"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = text_scores("en", EN_REFERENCES, first(EN_REFERENCES))
    assert found.scores.keys() == EN_NAMES
    assert len(found.notes) == 2


def test_chinese_by_characters_and_words():
    found = text_scores("zh", [["红色的狗"], ["红色的猫"]], ["红色的狗", "红色狗"])
    assert "jieba 0.42" in found.made_by["segmenter"]
    # words 红色 | 狗 against 红色 | 的 | 猫: one of two, one of three
    assert found.scores["rouge_1"] == pytest.approx((100 + 100 * 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3)) / 2, abs=1e-3)
    assert found.scores["cider"] != found.scores["cider_char"]


def test_chinese_white_space_and_silence():
    spaced = text_scores("zh", ZH_REFERENCES, [" ".join(text) for text in first(ZH_REFERENCES)]).scores
    plain = text_scores("zh", ZH_REFERENCES, first(ZH_REFERENCES)).scores
    assert spaced["bleu4"] == plain["bleu4"]
    silent = text_scores("zh", ZH_REFERENCES, ["", " ", "."]).scores
    assert all(value < 1 for value in silent.values())


def test_google_rouge_would_see_nothing_in_chinese():
    """Scorers that keep a-z only give 0 here."""
    assert text_scores("zh", ZH_REFERENCES, ["狗", "猫", "车"]).scores["rouge_l"] > 5


def test_missing_libraries_name_the_extra(monkeypatch):
    assert metrics.missing() is None
    monkeypatch.setitem(metrics.LIBRARIES, "no_such_library", "no-such-library")
    with pytest.raises(UserError, match=r"no-such-library.*\[eval\]"):
        text_scores("en", [["a"]], ["a"])


def test_interval_of_a_mean_matches_theory():
    values = np.random.default_rng(3).normal(2.0, 1.0, 400)
    low, high = mean_interval(values.tolist())
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)
    assert mean_interval(values.tolist()) == (low, high)
    assert mean_interval([1.5]) == (1.5, 1.5)


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        low, high = mean_interval(rng.exponential(1.0, 60).tolist())
        hits += low <= 1.0 <= high
    assert 86 <= hits <= 99
