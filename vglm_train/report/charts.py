"""Which metrics are drawn together, in which order: for the picture and for the live page."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vglm_train.config.metric_names import (
    DIRECTIONS,
    IMAGES,
    ITM_ACCURACY,
    LOSS_GAP,
    PREFIX,
    QUESTIONS,
    RERANK,
    SHUFFLED_IMAGES,
)
from vglm_train.log.alarms import ITM_BAND


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes: metrics over steps, a line of its own style for each."""

    title: str
    names: Sequence[str]
    level: tuple[float, str] | None = None  # a horizontal line and what it means
    band: tuple[float, float] | None = None
    noisy: bool = True  # show a running mean


PANELS = (
    Panel("loss", ["train/loss"]),
    Panel("ITC loss", ["train/loss_itc"]),
    Panel("ITM loss", ["train/loss_itm"], band=ITM_BAND),
    Panel("ITG loss", ["train/loss_itg"]),
    Panel("LM loss", ["train/loss_lm"]),
    Panel("LM accuracy", ["train/lm_accuracy"]),
    Panel("share of padding", ["train/padding"]),
    Panel("ITC accuracy", ["train/itc_accuracy"]),
    Panel("ITM accuracy", ["train/itm_accuracy"], level=(2 / 3, "blind guess")),
    Panel("temperature", ["train/temperature"], noisy=False),
    Panel("learning rate", ["train/lr"], noisy=False),
    Panel("gradient norm", ["train/grad_norm"]),
    Panel("samples a second", ["perf/samples_per_second"]),
    Panel("share of time waiting for data", ["perf/data_wait_fraction"]),
    Panel("memory, GiB", ["perf/memory_gib"], noisy=False),
    Panel("damaged samples", ["data/damaged"], noisy=False),
)
RECALL = re.compile(rf"{PREFIX}[a-z]+_((?:{RERANK}|{SHUFFLED_IMAGES})?)(?:{'|'.join(DIRECTIONS)})_r(\d+)")
TEXT_SCORE = re.compile(rf"{PREFIX}[a-z]+_(?:shuffled_)?(distinct|cider|bleu\d|rouge_\w|meteor|loss)\w*")
VARIANTS = {"": "ITC", RERANK: "re-ranked by ITM", SHUFFLED_IMAGES: "images shuffled"}


def panels(names: set[str]) -> list[Panel]:
    """Those that show one of the metrics."""
    return [panel for panel in [*PANELS, *_evaluations(names)] if names & set(panel.names)]


def _evaluations(names: Iterable[str]) -> list[Panel]:
    """Panels of recall at 1, ITM accuracy, text scores, and every other score; other recalls have none."""
    groups: dict[str, list[str]] = {}
    counts = (f"_{IMAGES}", f"_{QUESTIONS}")
    for name in sorted(name for name in names if name.startswith(PREFIX) and not name.endswith(counts)):
        recall, text_score = RECALL.fullmatch(name), TEXT_SCORE.fullmatch(name)
        if text_score:
            kind = "loss gap" if f"_{LOSS_GAP}" in name else text_score[1]
            groups.setdefault(f"held-out {kind}", []).append(name)
        elif recall is None:
            accuracy = name.endswith(ITM_ACCURACY)
            title = "held-out ITM accuracy, %" if accuracy else f"held-out {name.removeprefix(PREFIX)}"
            groups.setdefault(title, []).append(name)
        elif recall[2] == "1":
            groups.setdefault(f"held-out R@1, %, {VARIANTS[recall[1]]}", []).append(name)
    return [Panel(title, members, noisy=False) for title, members in groups.items()]


CHINESE_TITLES = {
    "loss": "总 loss", "ITC loss": "ITC loss", "ITM loss": "ITM loss", "ITG loss": "ITG loss", "LM loss": "LM loss",
    "LM accuracy": "LM 准确率", "share of padding": "填充比例", "ITC accuracy": "ITC 准确率",
    "ITM accuracy": "ITM 准确率",
    "temperature": "温度", "learning rate": "学习率", "gradient norm": "梯度范数", "samples a second": "每秒样本数",
    "share of time waiting for data": "等待数据的时间比例", "memory, GiB": "内存（GiB）",
    "damaged samples": "损坏样本数",
    "held-out ITM accuracy, %": "留出集 ITM 准确率（%）", "held-out loss gap": "留出集 loss 差",
    "held-out loss": "留出集 loss", "held-out distinct": "留出集互不相同的描述",
}  # fmt: skip
CHINESE_WORDS = {"held-out": "留出集", "re-ranked by ITM": "经 ITM 重排", "images shuffled": "图片打乱"}


def in_chinese(title: str) -> str:
    """A panel's title; names of scores stay as they are."""
    if title in CHINESE_TITLES:
        return CHINESE_TITLES[title]
    for english, chinese in CHINESE_WORDS.items():
        title = title.replace(english, chinese)
    return title
