"""Names of the evaluation metrics: every `eval/...` in metrics.jsonl, in W&B and in a result file is built here.

| task | names |
|---|---|
| retrieval | `eval/LANGUAGE_i2t_r1` ... `eval/LANGUAGE_t2i_r10`, `eval/LANGUAGE_itm_accuracy`, `eval/LANGUAGE_images` |
| | the same with `rerank_` or `shuffled_` after the language; `eval/r_mean` |
| caption | `eval/LANGUAGE_SCORE`: the scores of texts and CAPTION_SCORES; `eval/LANGUAGE_images` |
| vqa, report | `eval/TASK_SCORE`, of a baseline `eval/TASK_BASELINE_SCORE`: ANSWER_SCORES; `eval/TASK_questions` |
| report | `eval/report_LANGUAGE_SCORE` as well: the scores of texts |

The scores of texts (`cider`, `rouge_l`, ...) get their names where they are computed: `evaluate/metrics/english.py` and
`chinese.py`. Names of
training metrics (`train/loss_itm`, `perf/...`, `data/...`) are given where a row is made: `engine/hooks.py`.
This module is in `config` because `checkpoint.best` is checked against it; `evaluate` imports it too.
"""

from typing import Literal

from vglm_train.config.run import Config

MEANING = 3  # raised when a name comes to mean something else: values from before it are not compared with later ones
PREFIX = "eval/"

# retrieval
DIRECTIONS = ("i2t", "t2i")  # image to text, text to image
RECALL_AT = (1, 5, 10)
RECALLS = tuple(f"{direction}_r{k}" for direction in DIRECTIONS for k in RECALL_AT)
RERANK, SHUFFLED_IMAGES = "rerank_", "shuffled_"  # re-ranked by ITM; each image replaced by another
ITM_ACCURACY = "itm_accuracy"
IMAGES = "images"  # how many a language's scores are of; of captions, too
MEAN_RECALL = f"{PREFIX}r_mean"

# caption; all but `distinct` in nats
LOSS, SHUFFLED_LOSS, LOSS_GAP, LOSS_GAP_LOW, LOSS_GAP_HIGH = CAPTION_LOSSES = (
    "loss", "shuffled_loss", "loss_gap", "loss_gap_low", "loss_gap_high",
)  # fmt: skip
DISTINCT = "distinct"
CAPTION_SCORES = (DISTINCT, *CAPTION_LOSSES)

# vqa and report: who answers. The model is shown the right image, another one, or a grey one; majority needs no model.
VqaTask = Literal["vqa", "report"]
MODEL, MAJORITY, SHUFFLED, BLANK = "model", "majority", "shuffled", "blank"
QUESTIONS = "questions"  # how many the scores are of
BASELINES = (MAJORITY, SHUFFLED, BLANK)
ANSWER_SCORES = {  # score -> what it means
    "accuracy": "closed or exact, all questions",
    "closed": "closed questions, strict: first yes or no, or the option",
    "exact": "open questions, the same words",
    "recall": "true words that were said",
    "f1": "words, F1",
    "v2": "VQAv2, ten people",
    DISTINCT: "different texts, of all",
    "distinct_truth": "different true texts",
    "finding_recall": "true abnormal findings that are stated, by keywords",
    "finding_precision": "stated abnormal findings that are true, by keywords",
    "finding_side": "findings rightly stated, whose side is known: on that side",
    "normal": "reports that state no abnormal finding",
    "normal_truth": "true reports that state none",
}

# what `checkpoint.best` may name, without the prefix
BEST_CAPTION_SCORES = ("cider", "bleu4", "rouge_l", LOSS_GAP, LOSS)
BEST_ANSWER_SCORES = {
    "vqa": ("accuracy", "closed", "exact", "recall", "f1", "v2"),
    "report": ("f1", "recall", "finding_recall", "finding_precision"),
}
BEST_REPORT_TEXT_SCORES = {
    "en": ("rouge_l", "cider", "bleu4"),
    "zh": ("rouge_l", "rouge_l_char", "cider", "cider_char", "bleu4", "bleu4_word"),
}


def language_metric(language: str, score: str) -> str:
    """Full name of a retrieval or caption score of one language: `eval/en_cider`."""
    return f"{PREFIX}{language}_{score}"


def answer_metric(task: VqaTask, score: str, system: str = MODEL) -> str:
    """Full name of a score of `vqa` or `report`: `eval/vqa_accuracy`, of a baseline `eval/vqa_majority_accuracy`."""
    return f"{PREFIX}{task}_{score}" if system == MODEL else f"{PREFIX}{task}_{system}_{score}"


def best_metrics(config: Config) -> list[str]:
    """Full names of the metrics that `checkpoint.best` may name in this run. A loss is better when it is lower."""
    task, languages = config.evaluate.task, config.data.languages
    if task != "caption":
        texts = BEST_REPORT_TEXT_SCORES if task == "report" else {}
        by_language = [f"{language}_{score}" for language, scores in texts.items() for score in scores]
        return [answer_metric(task, score) for score in (*BEST_ANSWER_SCORES[task], *by_language)]
    if config.run.stage != "align":
        return [language_metric(language, score) for language in languages for score in BEST_CAPTION_SCORES]
    variants = ("", RERANK) if config.evaluate.rerank else ("",)
    scores = [*(variant + recall for variant in variants for recall in RECALLS), ITM_ACCURACY]
    return [MEAN_RECALL, *(language_metric(language, score) for language in languages for score in scores)]
