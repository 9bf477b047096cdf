"""Several cards as they were measured, and beside the model on paper of `docs.scaling`: tables for the pages."""

from collections.abc import Iterator
from dataclasses import replace

from docs.cards import Language
from docs.scaling import Work, number, step, work

FILE = "four"
CARDS = (1, 2, 4)
STAGES = {"align": ("lavis_stage1", 100), "generate": ("visualglm_stage2", 64)}
"""By the benchmark's name: the configuration and the rows of a card."""
NAMES = {"en": {"align": "stage one", "generate": "stage two"}, "zh": {"align": "第一阶段", "generate": "第二阶段"}}


def measured(stage: str, cards: int, key: str) -> float:
    return number(FILE, "scaling", f"{stage}, {cards} cards", key)


def card_rows(language: Language) -> Iterator[list[str]]:
    """A table's lines, the head first: speed and memory of `train.py`, and what recorded steps were spent on."""
    yield {
        "en": ["", "cards", "samples/s", "times one", "of one card", "waiting for data", "GiB", "ms a step",
               "in collectives, ms", "nothing runs, ms"],
        "zh": ["", "卡", "样本/秒", "单卡的倍数", "相对单卡", "等数据", "GiB", "每步毫秒", "集合通信，毫秒",
               "空闲，毫秒"],
    }[language]  # fmt: skip
    for stage in STAGES:
        for cards in CARDS:
            times = measured(stage, cards, "samples_per_s") / measured(stage, 1, "samples_per_s")
            yield [
                NAMES[language][stage], str(cards), f"{measured(stage, cards, 'samples_per_s'):,.0f}", f"{times:.2f}",
                f"{100 * times / cards:.0f} %", f"{100 * measured(stage, cards, 'waiting'):.1f} %",
                f"{measured(stage, cards, 'peak_gib'):.1f}", f"{measured(stage, cards, 'ms'):.1f}",
                f"{measured(stage, cards, 'collectives_ms'):.1f}", f"{measured(stage, cards, 'idle_ms'):.1f}",
            ]  # fmt: skip


def one_card(stage: str) -> Work:
    """The model's, with the rate of one of these cards by `train.py`."""
    name, rows = STAGES[stage]
    return replace(work(name), rate=measured(stage, 1, "samples_per_s"), rows=rows)


def model_rows(language: Language) -> Iterator[list[str]]:
    """A table's lines, the head first: a step by the model, and as it was measured."""
    yield {
        "en": ["H200", "cards", "arithmetic, ms", "moving", "wait", "by the model", "measured", "off by"],
        "zh": ["H200", "卡", "计算，毫秒", "传输", "等待", "按模型", "实测", "相差"],
    }[language]
    for stage in STAGES:
        one = one_card(stage)
        for cards in CARDS:
            found, took = step(one, cards, one.rows), measured(stage, cards, "ms")
            parts = [1e3 * each for each in (found.arithmetic, found.moving, found.wait, found.seconds)]
            off = f"{took - parts[-1]:+.1f}" if cards > 1 else ""
            yield [NAMES[language][stage], str(cards), *(f"{each:.1f}" for each in parts), f"{took:.1f}", off]
