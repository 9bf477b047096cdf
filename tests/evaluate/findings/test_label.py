"""Findings in reports: what is stated, denied, doubted and only asked for, and on which side."""

import json

import pytest
from made_questions import made_question

from vglm_train.evaluate.findings.label import label
from vglm_train.evaluate.findings.scores import count_findings, score_findings, stated_findings
from vglm_train.evaluate.findings.spelling import is_one_off
from vglm_train.evaluate.findings.table import read_table, shipped_table
from vglm_train.evaluate.vqa.scores import score_answer, total_scores

TABLE = shipped_table()


def said(text: str) -> dict[str, str]:
    return {name: mention.state for name, mention in label(text, TABLE).items()}


def abnormal(text: str) -> set[str]:
    return stated_findings(label(text, TABLE), TABLE)


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("Cardiomegaly. No pleural effusion, pneumothorax or consolidation.", {"cardiomegaly"}),
        ("The heart is mildly enlarged. Lungs are clear without focal consolidation.", {"cardiomegaly"}),
        ("No effusion, but a nodule in the left upper lobe", {"lung_lesion"}),
        ("Pneumothorax is not seen. Effusion has resolved.", set()),
        ("Bilateral ground-glass opacities", {"ground_glass", "lung_opacity"}),
        ("The lungs aren't consolidated", set()),
        ("Heart size and mediastinum are normal. Lungs are clear.", set()),
        ("心脏增大，未见气胸、胸腔积液或骨折。", {"cardiomegaly"}),
        ("肺部未见实变；左侧胸腔积液。", {"pleural_effusion"}),
        ("胸腔积液未见。双肺纹理清晰。", set()),
        ("没有急性心肺异常，但注意到有轻微的心脏肿大。", {"cardiomegaly"}),
        ("", set()),
    ],
)
def test_stated_and_denied(report, expected):
    assert abnormal(report) == expected
    scores = score_findings(report, report, TABLE)
    assert scores["normal"] == (float(not expected and bool(report)), 1.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Edema has improved but not resolved.", {"edema": "present"}),
        ("No edema, effusion or fracture is seen.", dict.fromkeys(("edema", "pleural_effusion", "fracture"), "absent")),
        ("No pneumothorax, left effusion is seen.", {"pneumothorax": "absent", "pleural_effusion": "present"}),
        ("The heart is not significantly enlarged.", {"cardiomegaly": "absent"}),
        ("Heart size: Enlarged.", {"cardiomegaly": "present"}),
        ("The effusion is no longer seen.", {"pleural_effusion": "absent"}),
        ("Effusion and pneumothorax are not seen.", {"pleural_effusion": "absent", "pneumothorax": "absent"}),
        ("No pneumothorax, heart is enlarged.", {"pneumothorax": "absent", "cardiomegaly": "present"}),
        ("No change in the effusion.", {"pleural_effusion": "present"}),
        ("Pneumonia cannot be excluded.", {"pneumonia": "uncertain"}),
        ("Atelectasis vs. pneumonia.", {"atelectasis": "uncertain", "pneumonia": "uncertain"}),
        ("No opacity suspicious for pneumonia.", {"lung_opacity": "absent", "pneumonia": "absent"}),
        ("Indication: rule out pneumonia.", {}),
        ("History of pneumothorax.", {}),
        ("Pericardial effusion.", {}),
        ("Small efusion and consolodation.", {"pleural_effusion": "present", "consolidation": "present"}),
        ("结核待排。", {"pneumonia": "uncertain"}),
        ("左侧气胸不能完全排除。", {"pneumothorax": "uncertain"}),
        ("原右侧气胸，现已吸收消失。", {"pneumothorax": "absent"}),
        ("并非没有积液。", {"pleural_effusion": "present"}),
        ("未见实变及气胸，右肺斑片影。", dict(consolidation="absent", pneumothorax="absent", lung_opacity="present")),
        ("检查目的：排除气胸。", {}),
        ("心包积液。", {}),
        ("右侧胸腔积液未见明显变化。", {"pleural_effusion": "present"}),
    ],
)  # fmt: skip
def test_cues(text, expected):
    assert said(text) == expected


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("Effusion on the right and atelectasis on the left.", {"pleural_effusion": "right", "atelectasis": "left"}),
        ("Right effusion and atelectasis.", {"pleural_effusion": "right", "atelectasis": "right"}),
        ("Opacities in the right upper and left lower lobes.", {"lung_opacity": "both"}),
        ("Effusions, left greater than right.", {"pleural_effusion": "both"}),
        ("On the right, there is a pneumothorax.", {"pneumothorax": "right"}),
        ("Left effusion. Right effusion.", {"pleural_effusion": "both"}),
        ("No left effusion; small right effusion.", {"pleural_effusion": "right"}),
        ("双侧胸腔积液，左侧明显。", {"pleural_effusion": "both"}),
        ("左肺实变，右肺未见异常。", {"consolidation": "left"}),
        ("Cardiomegaly, left ventricular.", {"cardiomegaly": None}),
    ],
)
def test_sides(text, sides):
    assert {name: mention.side for name, mention in label(text, TABLE).items()} == sides


def test_no_finding_stands_beside_nothing_ill():
    assert said("No acute cardiopulmonary abnormality.") == {"no_finding": "present"}
    assert said("No acute cardiopulmonary abnormality. Old rib fracture.") == {"fracture": "present"}
    assert said("Pacemaker. Normal chest.") == {"no_finding": "present", "support_devices": "present"}


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("plueral", "pleural", True), ("efusion", "effusion", True), ("effussion", "effusion", True),
        ("effuzion", "effusion", True), ("infusion", "effusion", False), ("effusion", "effusion", False),
        ("diffusion", "effusion", False),
    ],
)  # fmt: skip
def test_one_letter_is_forgiven(word, known, expected):
    assert is_one_off(word, known) is expected


def test_always_normal_is_seen():
    truths = ["Right pleural effusion.", "Cardiomegaly and a fracture.", "Clear lungs."]
    items = [made_question(0, "report", truth, kind="report") for truth in truths]
    always = total_scores([score_answer(item, "The lungs are clear.") for item in items])
    assert always["finding_recall"] == 0
    assert "finding_precision" not in always  # it states nothing that could be true
    assert always["normal"] == 100
    assert always["normal_truth"] == pytest.approx(100 / 3)
    some = total_scores([score_answer(item, "Cardiomegaly with left effusion.") for item in items])
    assert some["finding_recall"] == pytest.approx(200 / 3)
    assert some["finding_precision"] == pytest.approx(100 * 2 / 6)
    assert some["finding_side"] == 0  # the effusion is on the right
    assert some["normal"] == 0


@pytest.mark.parametrize(
    ("policy", "recall", "precision", "normal"),
    [("positive", (1, 1), (1, 2), 0), ("negative", (0, 0), (0, 2), 0), ("ignored", (0, 0), (0, 1), 0)],
)
def test_what_a_doubt_counts(tmp_path, policy, recall, precision, normal):
    path = tmp_path / "own.yaml"
    path.write_text(f"name: own\nextends: chest\nuncertain: {policy}\nfindings: {{}}\n")
    scores = score_findings("Possible effusion.", "Effusion. Edema.", read_table(path))
    assert (scores["finding_recall"], scores["finding_precision"]) == (recall, precision)
    assert scores["normal"] == (normal, 1)


def test_a_part_counts_once():
    """Ground glass is an opacity: of two findings that the report states, one was found."""
    scores = score_findings("Ground-glass opacities. Effusion.", "Ground-glass opacities.", shipped_table())
    assert scores["finding_recall"] == (1.0, 2.0)
    assert scores["finding_precision"] == (1.0, 1.0)


def test_findings_one_by_one():
    counts = count_findings(["Left effusion.", "Effusion, edema."], ["Effusion.", "Pacemaker."], TABLE)
    assert counts["pleural_effusion"] == {"true": 2, "stated": 1, "both": 1, "recall": 50, "precision": 100}
    assert counts["edema"] == {"true": 1, "stated": 0, "both": 0, "recall": 0, "precision": None}
    assert counts.keys() == {"pleural_effusion", "edema", "support_devices"}


def test_real_reports(shared):
    """Most of these were taken because something is to be seen; a few tell the patient's history alone."""
    rows = json.loads((shared / "data/xray_vqa/test.json").read_text("utf-8"))
    reports = [row["label"] for row in rows if row["type"] == "report"]
    assert sum(not abnormal(report) for report in reports) < 0.2 * len(reports)
    chinese = json.loads((shared / "data/xray_vqa/openi_zh_demo.json").read_text("utf-8"))
    assert [sorted(abnormal(row["label"])) for row in chinese][1:3] == [
        ["cardiomegaly", "fibrosis", "lung_opacity"],
        [],
    ]
