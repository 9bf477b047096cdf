"""Every metric that is logged has a meaning in both languages. tests/run compares whole runs with the same list."""

import pytest

from vglm_train.config.metric_meanings import ANSWERS_ZH, EVALUATION, TEXT_SCORES, TRAINING, undescribed
from vglm_train.config.metric_names import (
    ANSWER_SCORES,
    BASELINES,
    BEST_ANSWER_SCORES,
    BEST_CAPTION_SCORES,
    BEST_REPORT_TEXT_SCORES,
    CAPTION_SCORES,
    RECALLS,
    RERANK,
    SHUFFLED_IMAGES,
    answer_metric,
    language_metric,
)
from vglm_train.evaluate.metrics import chinese, english

REFERENCES = [["a black dog runs"], ["two children sit"]]
OUTPUTS = ["a dog runs", "children sit"]


def test_scores_of_pictures_and_captions():
    variants = [before + recall for before in ("", RERANK, SHUFFLED_IMAGES) for recall in RECALLS]
    scores = [*variants, *CAPTION_SCORES, *BEST_CAPTION_SCORES, "itm_accuracy", "images"]
    assert undescribed(language_metric("zh", score) for score in scores if score != "cider") == []
    assert undescribed(["eval/r_mean", "eval/zh_cider"]) == []


@pytest.mark.parametrize("task", ["vqa", "report"])
def test_scores_of_answers(task):
    assert undescribed(answer_metric(task, score) for score in (*ANSWER_SCORES, "questions")) == []
    assert undescribed(answer_metric(task, score, each) for score in ANSWER_SCORES for each in BASELINES) == []
    assert {score for scores in BEST_ANSWER_SCORES.values() for score in scores} <= ANSWER_SCORES.keys()


def test_scores_of_texts():
    found = {"en": english.scores(REFERENCES, OUTPUTS, with_java=False).scores}
    found["zh"] = chinese.scores([["一只狗在跑"], ["两个孩子坐着"]], ["狗在跑", "孩子坐着"]).scores
    for language, scores in found.items():
        assert set(scores) | ({"meteor"} if language == "en" else set()) == set(TEXT_SCORES[language])
        assert undescribed(language_metric(language, score) for score in scores) == []
        assert undescribed(f"eval/report_{language}_{score}" for score in BEST_REPORT_TEXT_SCORES[language]) == []


def test_both_languages():
    assert ANSWERS_ZH.keys() == ANSWER_SCORES.keys()
    assert all(metric.en and metric.zh for metric in (*TRAINING, *EVALUATION))


def test_a_name_that_nothing_explains_is_found():
    assert undescribed(["train/lr", "train/wishes", "eval/fr_images"]) == ["train/wishes", "eval/fr_images"]
