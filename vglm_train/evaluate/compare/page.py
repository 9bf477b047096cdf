"""What a comparison says, as lines and as one HTML page in English and Chinese."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from vglm_train.evaluate.compare.differences import Difference, Part, Verdict
from vglm_train.evaluate.metrics.bootstrap import RESAMPLES
from vglm_train.report import html

Tongue = Literal["en", "zh"]
VERDICTS: dict[Verdict, tuple[str, str]] = {
    "better": ("B is better", "B 更好"),
    "worse": ("B is worse", "B 更差"),
    "higher": ("B is higher", "B 更高"),
    "lower": ("B is lower", "B 更低"),
    "not told apart": ("not told apart", "分不出高下"),
    "too few": ("too few to tell", "太少，无法判断"),
    "no number": ("a score is not a number", "有分数不是数"),
    "no interval": ("of all texts together: no interval", "全部文本的分数：没有区间"),
}
COLUMNS = {
    "en": ("metric", "A", "B", "B - A", "95 % interval", "verdict"),
    "zh": ("指标", "A", "B", "B - A", "95 % 区间", "结论"),
}
NOTES = {
    "en": (
        f"Per cent; losses in nats. Intervals: percentile bootstrap of the paired difference over patients, else "
        f"pictures, {RESAMPLES} resamples. Each is of one metric: of twenty that differ by nothing, about one excludes "
        "zero by chance, so decide beforehand which one counts."
    ),
    "zh": (
        f"百分比；损失以 nat 计。区间：配对差值的百分位自助法，按病人（没有则按图片）重抽样 {RESAMPLES} 次。"
        "每个区间只对应一个指标：二十个其实没有差别的指标里，平均约有一个会偶然不含零，所以请事先定好看哪一个。"
    ),
}
NAMES = {"en": {}, "zh": {"all": "全部"}}
HEADINGS = {
    "en": "{name}: {items} items, {clusters} patients or pictures",
    "zh": "{name}：{items} 项，{clusters} 位病人或张图片",
}
DIFFERS = {"en": "Differs, and may: ", "zh": "两者不同、但允许不同："}
LEFT_OUT = {"en": "Left out: ", "zh": "没有比较："}
SAME_RESULT = {
    "en": "A and B hold one and the same result, so that nothing differs. Were two different ones meant?",
    "zh": "A 与 B 是同一个结果，因此没有差别。是否想给出两个不同的文件？",
}
TITLES = {"en": "Two results compared", "zh": "两个结果的比较"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that is shown."""

    first: str  # the files
    second: str
    task: str
    parts: Sequence[Part]
    differs: Sequence[str]  # settings that differ
    left_out: Sequence[str]  # metrics that were not compared, and why
    same: bool = False  # A and B hold the same


def text_lines(shown: Comparison) -> Iterator[str]:
    """What is printed."""
    yield f"A: {shown.first}"
    yield f"B: {shown.second}"
    if shown.same:
        yield f"! {SAME_RESULT['en']}"
    yield from (f"! {DIFFERS['en']}{each}" for each in shown.differs)
    yield from (f"! {LEFT_OUT['en']}{each}" for each in shown.left_out)
    for part in shown.parts:
        yield _heading(part, "en")
        for each in part.differences:
            name, first, second, difference, ends, verdict = _cells(each, "en")
            yield f"  {name:24}{first:>9}{second:>9}{difference:>9}  {ends:18}{verdict}"
    yield NOTES["en"]


def render_page(shown: Comparison) -> str:
    """One page that loads nothing, English first and the same in Chinese below."""
    links = '<p><a href="#en">English</a> | <a href="#zh">中文</a></p>'
    return html.document(TITLES["en"], [links, *_body(shown, "en"), *_body(shown, "zh")])


def _body(shown: Comparison, tongue: Tongue) -> Iterator[str]:
    yield f'<div lang="{tongue}" id="{tongue}"><h1>{TITLES[tongue]}: {escape(shown.task)}</h1>'
    yield f"<p>A: {escape(shown.first)}<br>B: {escape(shown.second)}</p>"
    told = [SAME_RESULT[tongue]] if shown.same else []
    told += [f"{DIFFERS[tongue]}{each}" for each in shown.differs]
    told += [f"{LEFT_OUT[tongue]}{each}" for each in shown.left_out]
    yield html.verdict(html.VerdictLine("warn", each) for each in told)
    for part in shown.parts:
        yield f"<h2>{escape(_heading(part, tongue))}</h2>"
        yield html.table(COLUMNS[tongue], [_cells(each, tongue) for each in part.differences])
    yield f"<p><small>{escape(NOTES[tongue])}</small></p></div>"


def _heading(part: Part, tongue: Tongue) -> str:
    name = NAMES[tongue].get(part.name, part.name)
    return HEADINGS[tongue].format(name=name, items=part.items, clusters=part.clusters)


def _cells(each: Difference, tongue: Tongue) -> tuple[str, str, str, str, str, str]:
    digits = 3 if "loss" in each.metric else 1
    ends = "" if each.low is None or each.high is None else f"[{each.low:+.{digits}f}, {each.high:+.{digits}f}]"
    numbers = (f"{each.first:.{digits}f}", f"{each.second:.{digits}f}", f"{each.difference:+.{digits}f}")
    return each.metric, *numbers, ends, VERDICTS[each.verdict][tongue == "zh"]
