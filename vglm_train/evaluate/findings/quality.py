"""What a score of findings is worth, in words: which table, and how well it reads sentences that people labelled."""

from collections.abc import Collection, Iterator
from dataclasses import asdict
from html import escape
from typing import Any, get_args

from vglm_train.config.data import Language
from vglm_train.evaluate.findings.measure import Reading, measure_table
from vglm_train.evaluate.findings.scores import POLICIES
from vglm_train.evaluate.findings.table import FindingsTable

EN = (
    "Findings are keywords: table {name}, {fingerprint}; {policy}. They are no clinical measure; published clinical "
    "efficacy needs CheXbert or RadGraph."
)
ZH = (
    "异常所见由关键词得出：表 {name}，{fingerprint}；{policy}。"
    "这不是临床指标；要报告临床有效性，须用 CheXbert 或 RadGraph。"
)
POLICIES_ZH = {
    "positive": "存疑的所见算作写出",
    "negative": "存疑的所见算作没有写出",
    "ignored": "标准报告或另一份报告存疑的所见不计",
}
HALVES_EN = {"blind": "written by people who had not seen the table", "own": "by which the table was mended"}
HALVES_ZH = {"blind": "由没有见过此表的人所写", "own": "写此表时用来修改它"}


def describe(table: FindingsTable) -> dict[str, Any]:
    """The table and its reading of the shipped sentences, for JSON; `says`: the same in words by language."""
    measured = {
        half: {language: asdict(reading) for language, reading in languages.items()}
        for half, languages in measure_table(table).items()
    }
    says = {language: list(lines(table, language == "zh")) for language in ("en", "zh")}
    return {
        "table": table.name, "fingerprint": table.fingerprint, "uncertain": table.uncertain, "sentences": measured,
        "says": says,
    }  # fmt: skip


def lines(
    table: FindingsTable, chinese: bool = False, languages: Collection[str] = get_args(Language)
) -> Iterator[str]:
    """What is printed beside scores of findings in these languages; the blind half, the fair one, before the own."""
    words, policies, halves = (ZH, POLICIES_ZH, HALVES_ZH) if chinese else (EN, POLICIES, HALVES_EN)
    yield words.format(name=table.name, fingerprint=table.fingerprint, policy=policies[table.uncertain])
    measured = measure_table(table)
    for half, by in halves.items():
        for language, reading in measured[half].items():
            if language in languages:
                yield _chinese(language, by, reading) if chinese else in_words(language, by, reading)


def section(table: FindingsTable) -> str:
    """The same as HTML, in both languages."""
    english, chinese = ("<br>".join(map(escape, lines(table, zh))) for zh in (False, True))
    return f'<h2>Findings</h2><p>{english}</p><p lang="zh">{chinese}</p>'


def in_words(language: str, by: str, reading: Reading) -> str:
    return (
        f"On {reading.sentences} sentences ({language}) {by}: precision {_cent(reading.precision)}, recall "
        f"{_cent(reading.recall)}, side {_cent(reading.side)} per cent."
    )


def _chinese(language: str, by: str, reading: Reading) -> str:
    named = {"en": "英文", "zh": "中文"}[language]
    return (
        f"在 {reading.sentences} 个{named}句子上（{by}）：精确率 {_cent(reading.precision)} %，召回率 "
        f"{_cent(reading.recall)} %，左右 {_cent(reading.side)} %。"
    )


def _cent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
