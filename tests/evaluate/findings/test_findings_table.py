"""A findings table as a person writes it: what it extends, and mistakes with file and line."""

import pytest

from vglm_train.config.metric_names import MEANING
from vglm_train.errors import UserError
from vglm_train.evaluate.findings.__main__ import main
from vglm_train.evaluate.findings.label import label
from vglm_train.evaluate.findings.measure import HALVES, measure_table, read_sentences
from vglm_train.evaluate.findings.table import LANGUAGES, read_table, shipped_table

CHEXPERT = (
    "no_finding", "enlarged_cardiomediastinum", "cardiomegaly", "lung_opacity", "lung_lesion", "edema", "consolidation",
    "pneumonia", "atelectasis", "pneumothorax", "pleural_effusion", "pleural_other", "fracture", "support_devices",
)  # fmt: skip


def table(tmp_path, text):
    path = tmp_path / "own.yaml"
    path.write_text(text, "utf-8")
    return read_table(path)


def test_the_shipped_table():
    shipped = shipped_table()
    assert tuple(finding.name for finding in shipped.findings)[:14] == CHEXPERT
    for finding in shipped.findings:
        assert all(finding.stated[language].spans("") == [] for language in LANGUAGES)
        assert finding.chinese != finding.name
    assert set(shipped.abnormal()) == {f.name for f in shipped.findings} - {"no_finding", "support_devices"}


def test_another_shipped_table_is_another_meaning():
    """Whoever changes chest.yaml raises MEANING too, so that old scores are not compared with new ones."""
    assert (MEANING, shipped_table().fingerprint) == (3, "b5905e638cfa")


def test_how_well_the_shipped_table_reads():
    """The blind half was measured once, with this table; change the table by other sentences than these."""
    measured = measure_table(shipped_table())
    assert [(half, language, reading.sentences) for half in HALVES for language, reading in measured[half].items()] == [
        ("own", "en", 75), ("own", "zh", 75), ("blind", "en", 75), ("blind", "zh", 75),
    ]  # fmt: skip
    blind = {language: (r.precision, r.recall) for language, r in measured["blind"].items()}
    assert blind["en"] == pytest.approx((98.7, 100.0), abs=0.05)
    assert blind["zh"] == pytest.approx((97.2, 93.3), abs=0.05)
    assert min(r.recall for r in measured["own"].values()) > 95


def test_a_table_that_extends(tmp_path):
    own = table(
        tmp_path,
        "name: ours\nextends: chest\nfindings:\n  pleural_effusion: {en: [wet ... lung]}\n"
        "  tb_scar:\n    part of: lung_opacity\n    zh: [陈旧灶]\n",
    )
    assert own.name == "ours"
    assert own.fingerprint != shipped_table().fingerprint
    assert label("A wet left lung.", own)["pleural_effusion"] == ("present", "left")
    assert label("No effusion.", own)["pleural_effusion"].state == "absent"
    assert label("左上陈旧灶。", own).keys() == {"tb_scar", "lung_opacity"}


def test_a_finding_that_begins_like_a_denial(tmp_path):
    """Where the table says that it is no cue, and where the phrase is of what is normal."""
    own = table(
        tmp_path,
        "name: a\nextends: chest\nfindings:\n  tumour: {zh: [非小细胞癌]}\n  tip_deep:\n    en: [tip deep]\n"
        "    normal: {en: [no deep tip]}\ncues:\n  zh: {not a cue: [非小细胞癌]}\n",
    )
    assert label("非小细胞癌。", own)["tumour"].state == "present"
    assert [label(text, own)["tip_deep"].state for text in ("Tip deep.", "No tip deep.", "No deep tip.")] == [
        "present", "absent", "absent",
    ]  # fmt: skip


def test_comments_make_no_other_table(tmp_path):
    text = "name: a\nextends: chest\nfindings:\n  x: {en: [word]}\n"
    assert table(tmp_path, text).fingerprint == table(tmp_path, f"# mine\n{text}").fingerprint
    assert table(tmp_path, text.replace("word", "words")).fingerprint != table(tmp_path, text).fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "own.yaml: the file is empty; a findings table needs at least"),
        ("- a\n", "own.yaml:1: expected keys with values, found a list of 1; a findings table"),
        ("name: a\n", "own.yaml:1: findings: is missing"),
        ("name: a\nfindings: {}\nwords: 3\n", "own.yaml:3: the table: 'words' is none of name, extends"),
        ("name: a\nextends: head\nfindings: {}\n", "own.yaml:2: extends: the table there is is 'chest'"),
        ("name: a\nuncertain: maybe\nfindings: {}\n", "own.yaml:2: uncertain: one of positive, negative, ignored"),
        ("name: a\nfindings:\n  x:\n    en: word\n", "own.yaml:4: findings.x.en: a list of phrases"),
        (
            "name: a\nfindings:\n  x:\n    en:\n      - ok\n      - no\n",
            "own.yaml:6: findings.x.en: a phrase in quotes",
        ),
        ("name: a\nfindings:\n  x:\n    en: [a, a]\n", "own.yaml:4: findings.x.en: 'a' is there already"),
        ("name: a\nfindings:\n  x:\n    en: [(a|b]\n", r"own.yaml:4: findings.x.en: '\(a\|b': a bracket is not closed"),
        ("name: a\nfindings:\n  x:\n    en: [a|b]\n", "own.yaml:4: .*stands outside of brackets"),
        ("name: a\nfindings:\n  x:\n    en: ['...']\n", "own.yaml:4: findings.x.en: '...': it has no word"),
        ("name: a\nfindings:\n  x:\n    en: [(a|)]\n", "own.yaml:4: .*it would be found everywhere"),
        ("name: a\nfindings:\n  x:\n    side: 3\n    en: [a]\n", "own.yaml:4: findings.x.side: yes or no"),
        ("name: a\nfindings:\n  x:\n    colour: red\n", "own.yaml:4: findings.x: 'colour' is none of"),
        ("name: a\nfindings:\n  x: {side: no}\n", "own.yaml:3: findings.x: has no phrase"),
        ("name: a\nfindings:\n  x: {part of: y, en: [a]}\n", "own.yaml:3: findings.x.part of: 'y' is no finding"),
        ("name: a\nfindings: {}\ncues:\n  fr: {}\n", "own.yaml:4: cues: 'fr' is none of en, zh"),
        ("name: a\nfindings: {}\ncues:\n  en: {denial: [a]}\n", "own.yaml:4: cues.en: 'denial' is none of negation"),
        ("name: a\nfindings:\n  x: {en: [a]}\n", "own.yaml:1: cues.en.negation: is missing.* write `extends: chest`"),
        *(
            (
                f"name: a\nextends: chest\nfindings:\n  x:\n    en: [ok, '{phrase}']\n",
                f"own.yaml:5: .*{sign}.* is of reg",
            )
            for phrase, sign in ((r"tip \d+ deep", r"\\\\"), ("tip.*deep", r"\.\*"), ("tip+", r"\+"), ("tips?", r"s\?"))
        ),
        ("name: a\nextends: chest\nfindings:\n  x:\n    en: [no tip deep]\n", "own.yaml:5: .* begins with 'no', which"),
        (
            "name: a\nextends: chest\nfindings:\n  x: {zh: [未见管尖]}\n",
            "own.yaml:4: .* begins with '未见', which denies",
        ),
        ("name: 3\nfindings: {}\n", "own.yaml:1: name: a text, found the number 3"),
    ],
)
def test_mistakes(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        table(tmp_path, text)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("3", "s.yaml:2: a sentence is"),
        ("{text: a, lang: en, findings: {}, colour: red}", "s.yaml:2: 'colour' is none of"),
        ("{text: a, lang: fr, findings: {}}", "s.yaml:2: give text: and lang: en or zh"),
        ("{text: a, lang: en}", "s.yaml:2: findings: {finding: present"),
        ("{text: a, lang: en, findings: {edema: 'yes'}}", "s.yaml:2: findings: one of present, absent, uncertain"),
    ],
)
def test_mistakes_in_sentences(tmp_path, row, message):
    path = tmp_path / "s.yaml"
    path.write_text(f"sentences:\n  - {row}\n")
    with pytest.raises(UserError, match=message):
        read_sentences(path)


def test_devices_have_no_side_and_the_command_says_so(capsys):
    assert main(["Right PICC and left effusion.", "No pacemaker."]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=2) for line in said if "support_devices" in line or "effusion  " in line] == [
        ["pleural_effusion", "present", "left"],
        ["support_devices", "present", "no side is read"],
        ["support_devices", "absent"],
    ]
    assert main([]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("No left or right is read of "))
    assert "support_devices" in line
    assert "pleural_effusion" not in line


def test_the_command(tmp_path, capsys):
    assert main(["Small left effusion, no edema."]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"  {'edema':28}absent",
        f"  {'pleural_effusion':28}{'present':11}left",
    ]
    sentences = tmp_path / "mine.yaml"
    sentences.write_text("sentences:\n  - {text: Wet lungs., lang: en, findings: {edema: present}}\n")
    assert main(["--sentences", str(sentences)]) == 0
    out = capsys.readouterr().out
    assert "precision 98.7, recall 100.0" in out
    assert "CheXbert or RadGraph" in out
    assert f"On 1 sentences (en) of {sentences}: precision -, recall 0.0, side - per cent." in out
    assert main(["--table", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml: no such file" in capsys.readouterr().err
