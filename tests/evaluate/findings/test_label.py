"""Abnormal findings in reports: what is stated, what is denied."""

import json

import pytest
from made_questions import made_question

from vglm_train.evaluate.metrics.findings import CHINESE_WORDS, ENGLISH_WORDS, findings, is_normal
from vglm_train.evaluate.vqa.scores import score_answer, total_scores


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("Cardiomegaly. No pleural effusion, pneumothorax or consolidation.", {"cardiomegaly"}),
        ("The heart is mildly enlarged. Lungs are clear without focal consolidation.", {"cardiomegaly"}),
        ("No effusion, but a nodule in the left upper lobe", {"nodule or mass"}),
        ("Pneumothorax is not seen. Effusion has resolved.", set()),
        ("Bilateral ground-glass opacities", {"ground glass", "opacity"}),
        ("The lungs aren't consolidated", set()),
        ("Heart size and mediastinum are normal. Lungs are clear.", set()),
        ("心脏增大，未见气胸、胸腔积液或骨折。", {"cardiomegaly"}),
        ("肺部未见实变；左侧胸腔积液。", {"effusion"}),
        ("胸腔积液未见。双肺纹理清晰。", set()),
        ("没有急性心肺异常，但注意到有轻微的心脏肿大。", {"cardiomegaly"}),
        ("", set()),
    ],
)
def test_stated_and_denied(report, expected):
    assert findings(report) == expected
    assert is_normal(report) is (not expected and bool(report))


def test_both_languages_know_the_same_findings():
    assert ENGLISH_WORDS.keys() == CHINESE_WORDS.keys()


def test_always_normal_is_seen():
    truths = ["Right pleural effusion.", "Cardiomegaly and a fracture.", "Clear lungs."]
    items = [made_question(0, "report", truth, kind="report") for truth in truths]
    always = total_scores([score_answer(item, "The lungs are clear.") for item in items])
    assert always["finding_recall"] == 0
    assert "finding_precision" not in always  # it states nothing that could be true
    assert always["normal"] == 100
    assert always["normal_truth"] == pytest.approx(100 / 3)
    some = total_scores([score_answer(item, "Cardiomegaly with effusion.") for item in items])
    assert some["finding_recall"] == pytest.approx(200 / 3)
    assert some["finding_precision"] == pytest.approx(100 * 2 / 6)
    assert some["normal"] == 0


def test_real_reports(shared):
    """Most of these were taken because something is to be seen; a few tell the patient's history alone."""
    rows = json.loads((shared / "data/xray_vqa/test.json").read_text("utf-8"))
    reports = [row["label"] for row in rows if row["type"] == "report"]
    assert sum(map(is_normal, reports)) < 0.2 * len(reports)
    chinese = json.loads((shared / "data/xray_vqa/openi_zh_demo.json").read_text("utf-8"))
    assert [sorted(findings(row["label"])) for row in chinese][1:3] == [["cardiomegaly", "fibrosis or scar"], []]
