"""Verdicts and alarms in Chinese: no sentence lacks it, and its numbers are those of the English."""

import random
import re
import string
from pathlib import Path

import pytest
from report.both import check_numbers
from report.made_runs import TOTAL, info, row, write_run

from vglm_train.log import alarms, tongues
from vglm_train.log.alarms import Alarms
from vglm_train.report import evaluations, verdict, verdict_words
from vglm_train.report.__main__ import main

SAME = {"ln_2", "term", "comma", "causes", "to_try"}  # formulas and signs
TABLES = {"verdict": verdict_words.WORDS, "alarms": alarms.WORDS}


def places(text: str) -> list[tuple[str, str | None]]:
    """Each value with the form in which its digits are shown."""
    return sorted((name, form) for _, name, form, _ in string.Formatter().parse(text) if name is not None)


@pytest.mark.parametrize(("table", "code"), [(table, code) for table, words in TABLES.items() for code in words])
def test_a_sentence_has_chinese_with_the_same_numbers(table, code):
    en, zh = TABLES[table][code]
    assert places(en) == places(zh)
    digits = re.compile(r"\d+(?:[.:]\d+)*")
    assert [re.sub(r"{\w*(:[^}]*)?}", "", text) for text in (en, zh)] != ["", ""] or code in SAME
    plain = [sorted(digits.findall(re.sub(r"{[^}]*}", "", text))) for text in (en, zh)]
    assert plain[0] == plain[1]
    assert code in SAME or re.search("[\u4e00-\u9fff]", zh)


def test_every_sentence_is_said_somewhere():
    source = "".join(Path(module.__file__).read_text("utf-8") for module in (verdict, evaluations))
    answers = (Path(verdict.__file__).parent / "answers.py").read_text("utf-8")
    said = set(re.findall(r'"(\w+)"', source + answers))
    assert set(verdict_words.WORDS) <= said


def test_alarms_say_the_same_in_both_languages():
    found = Alarms(info("a"))
    rng, notices = random.Random("blind"), []
    for step in range(50, TOTAL // 2 + 1, 50):
        notices += found.feed(step, row(step, rng, "blind"))
    for step in range(TOTAL // 2 + 50, TOTAL + 1, 50):
        notices += found.feed(step, row(step, rng, "healthy"))
    assert {(notice.loss, notice.over) for notice in notices} == {(n, o) for n in ("itm", "itc") for o in (True, False)}
    for notice in notices:
        check_numbers(notice.text)


def test_the_report_in_chinese(tmp_path, capsys, monkeypatch):
    write_run(tmp_path, "blind", TOTAL // 2)
    assert main([str(tmp_path), "--language", "zh"]) == 0
    said = capsys.readouterr().out
    assert "警报：自第 50 步起，即预热之后" in said
    page = (tmp_path / "report" / "report.html").read_text("utf-8")
    assert '<html lang="zh-CN">' in page
    assert "loss 正常吗？" in page
    assert "Alarm" not in page + said
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert tongues.of_computer() == "zh"
    assert main([str(tmp_path), "--language", "en"]) == 0
    assert "Alarm: ITM loss has stayed" in capsys.readouterr().out
