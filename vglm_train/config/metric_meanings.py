"""What each metric means, in both languages: the pages on metrics are made of this list.

A name may hold a place such as {LANG}, which PLACES explains. A metric that no name here fits fails a test of whole
runs.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from vglm_train.config.data import Language
from vglm_train.config.metric_names import (
    ANSWER_SCORES,
    BASELINES,
    DIRECTIONS,
    RECALL_AT,
    RERANK,
    SHUFFLED_IMAGES,
    VqaTask,
)

Direction = Literal["min", "max"]  # which value of a run is the best


@dataclass(frozen=True, slots=True)
class Metric:
    """Metrics that are explained together."""

    names: str  # with blanks between them
    en: str
    zh: str
    best: Direction | None = None  # None: neither is better, or only the last value says something


TEXT_SCORES = {
    "en": ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider", "meteor"),
    "zh": (
        "bleu4", "bleu4_word", "bleu4_corpus", "rouge_1", "rouge_2", "rouge_l", "rouge_l_char", "cider", "cider_char",
    ),
}  # fmt: skip
PLACES = {
    "LANG": get_args(Language),
    "TASK": get_args(VqaTask),
    "ANSWER": tuple(ANSWER_SCORES),
    "TEXT": tuple(f"{language}_{score}" for language, scores in TEXT_SCORES.items() for score in scores),
    "WAY": DIRECTIONS,
    "K": tuple(map(str, RECALL_AT)),
    "BASELINE": BASELINES,
    "CAUSE": (".+",),
    "SOURCE": (".+",),
}
# parts of the names of scores that describe the data or the texts, or that are what chance gives
NEITHER = re.compile(rf"_({SHUFFLED_IMAGES}|blank_|majority_|normal|distinct)")

TRAINING = (
    Metric("train/loss", "weighted sum of the means below", "下面各平均值的加权和", best="min"),
    Metric(
        "train/loss_itc train/loss_itm train/loss_itg train/loss_lm",
        "mean since the last row over all pairs, matching decisions, target tokens",
        "自上一行以来，对所有图文对、匹配判断、目标词元的平均",
        best="min",
    ),
    Metric(
        "train/lm_accuracy",
        "stage two: share of target tokens that are the likeliest",
        "第二阶段：目标词元恰为最可能词元的比例",
        best="max",
    ),
    Metric("train/padding", "stage two: share of positions that are padding", "第二阶段：填充位置的比例"),
    Metric(
        "train/itc_accuracy",
        "share right: best candidate, of both directions",
        "正确率：两个方向上的最佳候选",
        best="max",
    ),
    Metric(
        "train/itm_accuracy", "share right: match or not (blind: 2/3)", "正确率：匹配与否（瞎猜为 2/3）", best="max"
    ),
    Metric("train/itm_left_out", "share of rows without any possible negative", "找不到负样本的行所占比例"),
    Metric("train/temperature", "of ITC, at the last step", "ITC 的温度，最后一步的值"),
    Metric("train/lr", "learning rate at the last step", "最后一步的学习率"),
    Metric("train/grad_norm", "norm of the gradient at the last step, before clipping", "最后一步的梯度范数，裁剪之前"),
    Metric("train/steps_not_finite", "steps skipped so far", "至今跳过的步数"),
    Metric(
        "perf/samples_per_second",
        "of all processes, damaged samples too; without the time of evaluation and checkpoints",
        "所有进程合计，含损坏样本；不含评测和写检查点的时间",
        best="max",
    ),
    Metric(
        "perf/tokens_per_second",
        "the same for target tokens of ITG or of the language model",
        "同上，ITG 或语言模型的目标词元",
        best="max",
    ),
    Metric(
        "perf/data_wait_fraction",
        "share of time waiting for the loader, mean over processes",
        "等待数据的时间比例，各进程的平均",
        best="min",
    ),
    Metric(
        "perf/mfu",
        "arithmetic of forward and backward, with padding and without recomputation, over the 16-bit peak of GPUs that "
        "`log/throughput.py` knows",
        "前向与反向的运算（含填充，不含重算）与 GPU 16 位峰值之比；仅限 `log/throughput.py` 列出的 GPU",
        best="max",
    ),
    Metric(
        "perf/memory_gib",
        "peak so far: what torch reserved on a GPU, the whole process on a CPU",
        "至今的峰值：GPU 上为 torch 占用的，CPU 上为整个进程",
    ),
    Metric(
        "perf/start_seconds perf/start_imports perf/start_processes perf/start_inputs perf/start_model "
        "perf/start_weights perf/start_features perf/start_engine perf/start_checkpoint perf/start_outputs "
        "perf/start_first_batch perf/start_first_step",
        "in the first row of a start: seconds from the start of the process to the end of its first step, and their "
        "parts",
        "每次启动的第一行：从进程启动到第一步结束的秒数，以及其中各部分",
    ),
    Metric("data/damaged data/damaged_{CAUSE}", "damaged samples so far", "至今的损坏样本数"),
    Metric(
        "data/epoch data/samples",
        "position; an epoch is as many rows as all sources hold samples",
        "位置；一轮的行数等于各来源样本数之和",
    ),
    Metric(
        "data/share_{SOURCE} data/share_{LANG}",
        "share of the usable samples drawn since the run began, where there are several",
        "自运行开始以来所用样本中的比例；仅在有多个来源或语言时",
    ),
)

EVALUATION = (
    Metric(
        "eval/{LANG}_{WAY}_r{K}",
        "recall at 1, 5, 10 in per cent by ITC, image to text (i2t) and text to image (t2i), among the pictures that "
        "have captions in the language, where any of a picture's captions is right; chance is about 100 K / pictures; "
        "a language with fewer than two has none",
        "ITC 的前 1、5、10 名召回率（百分比），以图搜文（i2t）与以文搜图（t2i），在有该语言描述的图片之间检索；"
        "一张图片的任何一条描述都算对；随机水平约为 100·K / 图片数；少于两张则没有",
        best="max",
    ),
    Metric(
        f"eval/{{LANG}}_{RERANK}{{WAY}}_r{{K}}",
        "the `evaluate.rerank` best candidates re-ranked by ITM as `evaluate.rerank_score` says, the others after them",
        "最好的 `evaluate.rerank` 个候选经 ITM 按 `evaluate.rerank_score` 重排，其余排在其后",
        best="max",
    ),
    Metric(
        f"eval/{{LANG}}_{SHUFFLED_IMAGES}{{WAY}}_r{{K}}",
        "every image replaced by a neighbour: chance",
        "每张图片换成相邻的一张：应为随机水平",
    ),
    Metric(
        f"eval/{{LANG}}_itm_accuracy eval/{{LANG}}_{SHUFFLED_IMAGES}itm_accuracy",
        "as many true as false pairs: 50 is blind",
        "真假配对各半：50 即为瞎猜",
        best="max",
    ),
    Metric(
        "eval/r_mean",
        "mean of all ITC recalls, each language counting the same",
        "所有 ITC 召回率的平均，各语言权重相同",
        best="max",
    ),
    Metric("eval/{LANG}_images", "how many pictures the scores are of", "分数基于多少张图片"),
    Metric(
        "eval/en_bleu1 eval/en_bleu2 eval/en_bleu3 eval/en_bleu4 eval/en_rouge_l eval/en_cider eval/en_meteor",
        "stage two: captions against references, per cent, as the COCO evaluation computes them; METEOR needs Java",
        "第二阶段：描述与参考的比较，百分比，按 COCO 评测计算；METEOR 需要 Java",
        best="max",
    ),
    Metric(
        "eval/zh_bleu4 eval/zh_rouge_l_char eval/zh_cider_char",
        "the same in Chinese by characters; BLEU-4 is the mean over sentences",
        "中文，按字计算；BLEU-4 为各句平均",
        best="max",
    ),
    Metric(
        "eval/zh_bleu4_word eval/zh_rouge_1 eval/zh_rouge_2 eval/zh_rouge_l eval/zh_cider",
        "the same in Chinese by jieba's words",
        "中文，按 jieba 的词计算",
        best="max",
    ),
    Metric(
        "eval/zh_bleu4_corpus",
        "the same in Chinese by sacrebleu, over the whole corpus",
        "中文，sacrebleu 的语料级 BLEU",
        best="max",
    ),
    Metric("eval/{LANG}_distinct", "share of captions that differ from all others", "互不相同的描述所占比例"),
    Metric(
        "eval/{LANG}_loss eval/{LANG}_shuffled_loss",
        "stage two: nats a token of the first reference, with its picture and with another's",
        "第二阶段：第一条参考描述在自己的图片、在另一张图片下每词元的损失（nat）",
        best="min",
    ),
    Metric(
        "eval/{LANG}_loss_gap eval/{LANG}_loss_gap_low eval/{LANG}_loss_gap_high",
        "their difference: 0 is a model that does not look; its 95 % interval",
        "两者之差：0 表示模型没有看图；及其 95 % 区间",
        best="max",
    ),
    Metric("eval/{TASK}_questions", "how many questions the scores are of", "分数基于多少个问题"),
    Metric(
        "eval/report_finding_recall eval/report_finding_precision eval/report_finding_side",
        "`evaluate.task` report: abnormal findings by keywords, no clinical measure; `vglm findings` prints how well "
        "they are read",
        "`evaluate.task` 为 report：由关键词得出的异常所见，不是临床指标；`vglm findings` 会打印关键词读得多准",
        best="max",
    ),
    Metric(
        "eval/{TASK}_{ANSWER}",
        "`evaluate.task` vqa or report, per cent; the scores are below",
        "`evaluate.task` 为 vqa 或 report，百分比；各分数见下",
        best="max",
    ),
    Metric(
        "eval/{TASK}_{BASELINE}_{ANSWER}",
        "the same for what does not look: `majority` says the commonest answer, `shuffled` sees another picture, "
        "`blank` a grey one",
        "同上，不看图时：`majority` 总说最常见的答案，`shuffled` 看另一张图片，`blank` 看灰色图片",
    ),
    Metric(
        "eval/report_{TEXT} eval/report_{BASELINE}_{TEXT}",
        "`evaluate.task` report: the scores of captions, by language; without METEOR, whose program takes seconds "
        "to start",
        "`evaluate.task` 为 report：按语言的描述分数；不含 METEOR，因为它的程序启动要好几秒",
        best="max",
    ),
)


ANSWERS_ZH = {
    "accuracy": "所有问题：封闭题看选项，开放题看原词",
    "closed": "封闭题，严格：第一个是或否，或选项",
    "exact": "开放题，用词完全相同",
    "recall": "标准答案中的词说出了多少",
    "f1": "词的 F1",
    "v2": "VQAv2，十个人的答案",
    "distinct": "互不相同的答案所占比例",
    "distinct_truth": "互不相同的标准答案所占比例",
    "finding_recall": "真实的异常所见说出了多少（关键词）",
    "finding_precision": "说出的异常所见有多少是真的（关键词）",
    "finding_side": "正确说出且已知左右的所见，左右相同的比例",
    "normal": "没有写出异常的报告所占比例",
    "normal_truth": "标准报告中没有异常的比例",
}


def fits(name: str, metric: Metric) -> bool:
    """Whether the metric explains the logged name."""
    return any(re.fullmatch(pattern(each), name) for each in metric.names.split())


@cache
def best_of(name: str) -> Direction | None:
    """Which value of the logged name is the best in a run; None where neither is, or nothing explains the name."""
    found = next((metric.best for metric in (*TRAINING, *EVALUATION) if fits(name, metric)), None)
    return None if NEITHER.search(name) else found


def undescribed(names: Iterable[str]) -> list[str]:
    """Those of the logged names that no metric explains."""
    return [name for name in names if not any(fits(name, metric) for metric in (*TRAINING, *EVALUATION))]


def pattern(name: str) -> str:
    """A regular expression of the names that `name` stands for."""
    return re.sub(r"\{(\w+)\}", lambda place: f"({'|'.join(PLACES[place[1]])})", name)
