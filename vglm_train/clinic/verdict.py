"""What came of it: a sentence in English and in Chinese for each task, and a page."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

from vglm_train.clinic.plan import Options
from vglm_train.clinic.recipe import Recipe
from vglm_train.config.metric_names import BASELINES, BLANK, MAJORITY, SHUFFLED
from vglm_train.errors import UserError
from vglm_train.evaluate.metrics.bootstrap import MIN_ITEMS
from vglm_train.evaluate.vqa.verdict import MAIN_SCORE
from vglm_train.files import write_text
from vglm_train.report import html

Outcome = Literal["above", "not told apart", "below", "too few"]
NAMES = {
    MAJORITY: ("the commonest answer", "最常见的答案"),
    SHUFFLED: ("itself shown another picture", "看另一张图像的同一模型"),
    BLANK: ("itself shown a grey picture", "看灰色图像的同一模型"),
}
TASK_NAMES = {"report": ("Reports", "报告"), "vqa": ("Answers", "回答")}
PAGE = "verdict.html"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of a task. `gains`: baseline -> how far the model is above it, and the ends of the 95 % interval, in per cent."""

    task: str
    outcome: Outcome
    patients: int
    gains: Mapping[str, tuple[float, float | None, float | None]]
    english: str
    chinese: str


def read_verdict(path: Path, task: str) -> Verdict:
    """The verdict of a result of `vglm evaluate`. UserError where the file is none."""
    try:
        whole = json.loads(path.read_text("utf-8"))["sections"][0]
        metric = MAIN_SCORE["vqa" if task == "vqa" else "report"]
        found = whole["gains"].get(metric, {})
        gains = {name: _gain(found[name]) for name in BASELINES if name in found}
        patients = int(whole["clusters"])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        raise UserError(
            f"{path}: is no result of vglm evaluate --task {task}; delete it, and it is made anew"
        ) from None
    outcome = judge(gains, patients)
    return Verdict(task, outcome, patients, gains, *_sentences(task, metric, outcome, gains, patients))


def judge(gains: Mapping[str, tuple[float, float | None, float | None]], patients: int) -> Outcome:
    """Above: above every baseline, and each interval excludes zero."""
    if patients < MIN_ITEMS or not gains or any(low is None for _, low, _ in gains.values()):
        return "too few"
    if all(low is not None and low > 0 for _, low, _ in gains.values()):
        return "above"
    return "below" if any(high is not None and high < 0 for _, _, high in gains.values()) else "not told apart"


def _gain(score: Mapping[str, Any]) -> tuple[float, float | None, float | None]:
    return score["value"], score["low"], score["high"]


def _sentences(task: str, metric: str, outcome: Outcome, gains: Mapping[str, Any], patients: int) -> tuple[str, str]:
    """In English and in Chinese."""
    what, was = TASK_NAMES[task]
    if outcome == "too few":
        return (
            f"{what}: {patients} patients are too few to tell whether the model looks at the picture.",
            f"{was}：只有 {patients} 名患者，无法判断模型是否在看图像。",
        )
    told = {name: gain for name, gain in gains.items() if outcome == "above" or gain[1] <= 0}
    words = {name: _compared(gain) for name, gain in told.items()}
    english = "; ".join(f"{words[name][0]} {NAMES[name][0]} ({_points(gain)})" for name, gain in told.items())
    chinese = "；".join(f"{words[name][1]}{NAMES[name][1]}（{_points(gain)}）" for name, gain in told.items())
    ends = ("it reads the pictures", "它确实在看图像") if outcome == "above" else ("do not use it", "请勿使用")
    return (
        f"{what}: on {patients} patients it has not seen, the model's {metric} is {english}: {ends[0]}.",
        f"{was}：在 {patients} 名未见过的患者上，模型的 {metric} {chinese}：{ends[1]}。",
    )


def _compared(gain: tuple[float, float, float]) -> tuple[str, str]:
    _, low, high = gain
    return ("above", "高于") if low > 0 else ("below", "低于") if high < 0 else ("not told apart from", "无法区别于")


def _points(gain: tuple[float, float, float]) -> str:
    value, low, high = gain
    return f"{value:+.1f}, 95 % [{low:+.1f}, {high:+.1f}]"


def write_page(options: Options, recipe: Recipe, verdicts: Sequence[Verdict], commands: Sequence[str]) -> Path:
    """OUT/verdict.html: the sentences, links to the pages of the tasks, and the commands that made them."""
    lines = [
        html.VerdictLine("ok" if each.outcome == "above" else "warn", text)
        for each in verdicts
        for text in (each.english, each.chinese)
    ]
    links = "".join(
        f'<li><a href="{escape(os.path.relpath(options.result(each.task).with_suffix(".html"), options.out))}">'
        f"{escape(TASK_NAMES[each.task][0])} / {escape(TASK_NAMES[each.task][1])}</a></li>"
        for each in verdicts
    )
    parts = ["<h1>Can it be trusted? / 可以信任吗？</h1>", html.verdict(lines), f"<ul>{links}</ul>"]
    parts += ["<h2>Recipe / 配方</h2>", f"<p>{escape(recipe.reason)}</p>", "<h2>Steps / 步骤</h2>"]
    parts.append("".join(f"<pre>{escape(command)}</pre>" for command in commands))
    page = options.out / PAGE
    write_text(page, html.document("vglm clinic", parts))
    return page
