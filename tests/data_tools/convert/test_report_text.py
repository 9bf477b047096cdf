"""Reports in the forms that hospitals write them become their parts; sentences about earlier studies are told."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_tools.convert import __main__ as convert
from data_tools.convert.earlier import RULES, refers_to_earlier, sentences, without_earlier
from data_tools.convert.headings import split_report
from data_tools.convert.report_text import part_of
from vglm_train.data.record import RecordError

PARTS = {"findings": "The lungs are clear.", "impression": "No acute disease."}
CHINESE = {"findings": "双肺纹理清晰。", "impression": "未见异常。"}
ENGLISH_REPORTS = {
    "lines": (
        "INDICATION: cough\nTECHNIQUE: PA and lateral\nCOMPARISON: None.\nFINDINGS:\n{findings}\n"
        "IMPRESSION:\n{impression}"
    ),
    "one line": "Findings: {findings} Impression: {impression}",
    "small": "findings: {findings} impression: {impression}",
    "colon apart": "Findings : {findings}\nConclusion : {impression}",
    "no colon": "FINDINGS {findings} IMPRESSION {impression}",
    "alone on their lines": "Findings\n{findings}\n\nImpression\n{impression}\n",
    "brackets": "[FINDINGS] {findings} [IMPRESSION] {impression}",
    "marked": "**Findings:** {findings}\n**Impression:** {impression}",
    "other way round": "IMPRESSION: {impression}\n\nFINDINGS: {findings}\n\nRecommendation: follow up",
    "numbered": "1. Findings: {findings}\n2. Opinion: {impression}",
    "before the first": "CHEST RADIOGRAPH, 2 VIEWS\nHistory: fever. Findings: {findings} Diagnosis: {impression}",
    "said in a sentence": "Clinical history: see earlier findings. Findings: {findings} Impression: {impression}",
}
CHINESE_REPORTS = {
    "lines": "检查方法：胸部正侧位\n影像所见：{findings}\n诊断意见：{impression}\n报告医师：王某",
    "one line": "影像表现：{findings}影像诊断：{impression}",
    "half colon": "检查所见:{findings}印象:{impression}",
    "brackets": "【影像所见】{findings}【结论】{impression}",
    "spaces": "检查所见 {findings}\n诊断意见 {impression}",
    "alone": "影像所见\n{findings}\n影像学诊断\n{impression}",
    "numbered": "一、影像所见：{findings}\n二、诊断意见：{impression}",
    "with history": "临床诊断：肺炎？。CT所见：{findings}检查结论：{impression}建议：随访。",
}


@pytest.mark.parametrize("name", ENGLISH_REPORTS)
def test_english_reports(name: str) -> None:
    text = ENGLISH_REPORTS[name].format(**PARTS)
    parts = split_report(text)
    assert {part: parts[part] for part in PARTS} == PARTS
    assert part_of(text, "findings") == PARTS["findings"]
    assert part_of(text, "both") == "Findings: The lungs are clear.\nImpression: No acute disease."
    assert part_of(text, "whole") == text


@pytest.mark.parametrize("name", CHINESE_REPORTS)
def test_chinese_reports(name: str) -> None:
    text = CHINESE_REPORTS[name].format(**CHINESE)
    parts = split_report(text)
    assert {part: parts[part] for part in CHINESE} == CHINESE
    assert part_of(text, "impression") == CHINESE["impression"]
    assert part_of(text, "both") == "影像所见：双肺纹理清晰。\n印象：未见异常。"


@pytest.mark.parametrize(
    "text",
    [
        "The findings are normal. My impression is that of a viral disease.",
        "These findings may represent pneumonia; the impression of the aorta is normal.",
        "双肺未见异常，诊断明确。结论性意见待定。",
    ],
)
def test_words_in_sentences_are_no_headings(text: str) -> None:
    assert set(split_report(text)) == {"other"}
    with pytest.raises(RecordError, match="without a heading"):
        part_of(text, "both")


def test_a_part_that_is_not_there_is_named() -> None:
    with pytest.raises(RecordError, match="a report without impression"):
        part_of("FINDINGS: clear", "impression")
    with pytest.raises(RecordError, match="a report without findings"):
        part_of("FINDINGS:\nIMPRESSION: clear", "findings")
    assert part_of("FINDINGS: clear", "both") == "Findings: clear"
    combined = "FINDINGS AND IMPRESSION: clear lungs"
    assert part_of(combined, "both") == "clear lungs"
    with pytest.raises(RecordError, match="a report without findings"):
        part_of(combined, "findings")


def convert_rows(folder: Path, *options: str) -> list[dict[str, Any]]:
    out = folder / "r.jsonl"
    assert convert.main([str(folder / "t.csv"), "--out", str(out), "--images", str(folder), *options]) == 0
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


@pytest.fixture
def table(photos: Path, tmp_path: Path) -> Path:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes((photos / f"{number}.png").read_bytes())
    return tmp_path


def test_parts_of_a_column(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["image,report", '0.png,"FINDINGS: clear lungs\nIMPRESSION: normal"', "1.png,Findings: a mass"]
    rows += ["2.png,normal chest", "3.png,影像所见：双肺清晰。诊断意见：正常。"]
    (table / "t.csv").write_text("\n".join(rows), "utf-8")
    found = [record["captions"] for record in convert_rows(table, "--report-part", "impression")]
    assert found == [{"en": ["normal"]}, {"zh": ["正常。"]}]
    text = capsys.readouterr().out
    assert "left out: 1 x a report without impression" in text
    assert "left out: 1 x a report without a heading that is known" in text
    assert len(convert_rows(table)) == 4


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("image,Findings,Impression", []),
        ("image,检查所见,诊断意见", []),
        ("image,seen,said", ["--part-field", "findings=seen", "--part-field", "impression=said"]),
    ],
)
def test_parts_in_columns(head: str, options: list[str], table: Path) -> None:
    rows = [head, "0.png,clear lungs,normal chest", "1.png,,only an impression", "2.png,a mass,"]
    (table / "t.csv").write_text("\n".join(rows), "utf-8")

    def texts(part: str) -> list[str]:
        return [record["captions"]["en"][0] for record in convert_rows(table, "--report-part", part, *options)]

    assert texts("findings") == ["clear lungs", "a mass"]
    assert texts("impression") == ["normal chest", "only an impression"]
    assert texts("both")[0] == "Findings: clear lungs Impression: normal chest"
    assert len(texts("both")) == 3


def test_answers_to_questions_stay(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (table / "t.csv").write_text("image,question,answer\n0.png,heart?,unchanged\n", "utf-8")
    (record,) = convert_rows(table, "--earlier", "drop-row")
    assert record["turns"][1]["text"] == "unchanged"
    assert "note: 1 x a question or a dialogue, whose answers" in capsys.readouterr().out


def test_what_refers_to_an_earlier_study_is_left_out(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["image,report", "0.png,Clear lungs. Interval increase of the effusion.", "1.png,Clear lungs."]
    rows += ["2.png,Unchanged from prior.", "3.png,双肺清晰。与前片比较，积液增多。"]
    (table / "t.csv").write_text("\n".join(rows), "utf-8")
    found = [record["captions"] for record in convert_rows(table, "--earlier", "drop-sentence")]
    assert found == [{"en": ["Clear lungs."]}, {"en": ["Clear lungs."]}, {"zh": ["双肺清晰。"]}]
    text = capsys.readouterr().out
    assert "note: 2 x sentences that refer to an earlier study, left out" in text
    assert "left out: 1 x a report that only refers to an earlier study" in text
    assert [record["captions"] for record in convert_rows(table, "--earlier", "drop-row")] == [{"en": ["Clear lungs."]}]
    assert "left out: 3 x a report that refers to an earlier study" in capsys.readouterr().out
    (table / "t.csv").write_text(
        "image,report\n0.png,FINDINGS: No change since the prior study. IMPRESSION: Normal.\n", "utf-8"
    )
    both = convert_rows(table, "--report-part", "both", "--earlier", "drop-sentence")
    assert both[0]["captions"] == {"en": ["Impression: Normal."]}


@pytest.mark.parametrize("rule", [rule for rules in RULES.values() for rule in rules], ids=lambda rule: rule.words)
def test_every_rule_finds_its_example(rule: Any) -> None:
    assert refers_to_earlier(rule.example)
    others = [other for rules in RULES.values() for other in rules if other is not rule]
    assert rule.pattern not in [other.pattern for other in others]


def test_sentences() -> None:
    text = "1. Mass of 1.5 cm. No effusion; heart normal.\n2. 双肺清晰。心影不大；膈面光滑"
    assert list(sentences(text)) == [
        "1. Mass of 1.5 cm.", "No effusion;", "heart normal.", "2. 双肺清晰。", "心影不大；", "膈面光滑",
    ]  # fmt: skip
    assert without_earlier("1. Mass of 1.5 cm. Unchanged effusion.\nStable.\n心影不大；较前相仿。") == (
        "1. Mass of 1.5 cm.\n心影不大；"
    )
