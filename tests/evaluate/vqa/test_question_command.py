"""`--task vqa` and `--task report` on tables and shards: what is asked, written, printed and shown, and mistakes."""

import re
from html.parser import HTMLParser

import pytest
from made_shards import write_source
from made_tables import pictures, write_json
from run_tasks import run_task

from vglm_train.errors import UserError

pytestmark = pytest.mark.usefixtures("no_java")


def test_vqa(loaded, table, tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text("images/0.jpg\nimages/1.jpg\n")
    report, lines, html = run_task(loaded, table, "--subset", "two", f"@{ids}")
    assert report["questions"] == 12
    assert [(part["name"], part["items"], part["clusters"]) for part in report["sections"]] == [
        ("all", 12, 3), ("type plane", 6, 3), ("type red", 6, 3), ("two", 4, 1),
    ]  # fmt: skip
    plane = report["sections"][1]["scores"]["accuracy"]
    assert plane["majority"]["value"] == pytest.approx(500 / 6)
    assert plane["majority"]["low"] <= 500 / 6 <= plane["majority"]["high"]
    assert "flatters" in report["majority"]
    row = report["answers"][0]
    assert (row["picture"], row["type"], row["kind"], row["group"]) == ("images/0.jpg", "plane", "open", "p0")
    assert row["outputs"].keys() == {"model", "majority", "shuffled", "blank"}
    assert report["answers"][1]["kind"] == "closed"
    text = "\n".join(lines)
    for expected in (
        "all: 12 questions",
        "type plane: 6 questions",
        "accuracy",
        "majority",
        "commonest answer",
    ):
        assert expected in text
    assert len(report["verdict"]) == 12  # three baselines a section
    assert all(line in html for line in report["verdict"])


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.pictures = 0

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                self.pictures += value.startswith("data:image/jpeg;base64,")
                self.loaded += [value] if not value.startswith("data:") else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else(loaded, table, tmp_path):
    _, _, html = run_task(loaded, table)
    page = Links()
    page.feed(html)
    assert page.open == []
    assert page.loaded == []
    assert page.pictures == 12  # a question each, among the worst or among the best
    assert "http" not in re.sub(r"base64,[^\"]*", "", html)


def test_report(loaded, table, tmp_path):
    report, lines, html = run_task(loaded, table, task="report")
    assert report["questions"] == 6
    assert {row["kind"] for row in report["answers"]} == {"report"}
    assert report["scores"]["model"]["distinct_truth"] == 100
    assert report["scores"]["model"]["normal_truth"] == 0
    assert report["scores"]["majority"]["finding_recall"] == 100  # every report has the same one
    assert "nltk" in report["made_by"]["en"]["tokenizer"]
    assert "java" in report["notes"]["en"][0]
    assert any("state no abnormal finding" in line for line in lines)
    for name in ("en_bleu4", "en_rouge_l", "en_cider", "finding_recall", "commonest answer", "grey picture"):
        assert name in html


def test_reports_by_a_table_of_ones_own(loaded, table, tmp_path):
    """What the table is worth stands beside the scores, in both languages."""
    own = tmp_path / "mine.yaml"
    own.write_text("name: mine\nextends: chest\nfindings:\n  sized: {en: [cardiomegaly number]}\n")
    report, lines, html = run_task(loaded, table, "--findings", str(own), task="report")
    shipped, _, _ = run_task(loaded, table, task="report")
    assert (report["findings"]["table"], shipped["findings"]["table"]) == ("mine", "chest")
    assert report["findings"]["fingerprint"] != shipped["findings"]["fingerprint"]
    assert report["findings"]["observations"]["sized"]["true"] == 6
    assert shipped["findings"]["observations"]["cardiomegaly"]["true"] == 6
    key = report["answers"][0]["key"]
    assert report["findings"]["reports"][key]["truth"] == {"sized": ["present", None]}
    assert shipped["findings"]["sentences"]["blind"]["zh"]["sentences"] == 75
    english = ("table mine", "CheXbert or RadGraph", "75 sentences (en)")
    for text in (*english, "须用 CheXbert 或 RadGraph", "75 个中文句子"):
        assert text in html
        assert any(text in line for line in lines) == (text in english)  # the reports are English
    assert not any("sentences (zh)" in line for line in lines)
    own.write_text("name: mine\nfindings:\n  sized: 3\n")
    with pytest.raises(UserError, match=r"mine.yaml:3: findings.sized: expected keys"):
        run_task(loaded, table, "--findings", str(own), task="report")


def test_reports_that_say_nothing_of_the_table_are_told(loaded, table):
    """The small model says letters; the true reports name a finding."""
    report, lines, html = run_task(loaded, table, task="report")
    said = report["findings"]["reports"].values()
    silent = sum(not each["output"] for each in said)
    assert silent
    assert all(each["truth"] for each in said)
    text = f"{silent} of 6 reports say nothing that the table of findings knows"
    assert any(line.startswith(f"! {text}") for line in lines)
    assert text in html


def test_the_commonest_answer_of_training(loaded, table, tmp_path):
    train = write_json(
        tmp_path / "train.json",
        [{"img": name, "prompt": "plane", "label": "lateral", "type": "plane"} for name in pictures(tmp_path, 3)],
    )
    report, _, _ = run_task(loaded, table, "--train", str(train), "--only", "type=plane")
    assert report["questions"] == 6
    assert {row["outputs"]["majority"] for row in report["answers"]} == {"lateral"}
    assert report["scores"]["majority"]["accuracy"] == 0
    assert "3 questions" in report["majority"]


def test_what_training_has_too(loaded, table, tmp_path):
    report, lines, html = run_task(loaded, table, "--train", str(table), "--images", "3")
    said = report["verdict"][:3]
    assert said[0] == "3 groups (patients, studies) are in both training and --data"
    assert said[1].startswith("6 pictures of --data are in training too: images/0.jpg of held.json")
    assert said[2] == "18 rows of --data are in training too, word for word"
    assert all(f"! {line}" in lines and f'<li class="warn">{line}</li>' in html for line in said)

    new = pictures(tmp_path, 9)[6:]
    train = write_json(tmp_path / "train.json", [{"img": name, "prompt": "plane", "label": "pa"} for name in new])
    report, lines, _ = run_task(loaded, table, "--train", str(train), "--images", "3")
    assert not any("in training" in line or "not compared" in line for line in lines)


def test_a_split_of_one_file_against_another(loaded, tmp_path):
    """R2Gen's annotation.json, in which train and test stand together."""
    names = pictures(tmp_path, 6)
    rows = [{"id": str(n), "image_path": [name], "report": f"photo {n}"} for n, name in enumerate(names)]
    table = write_json(tmp_path / "annotation.json", {"train": rows[:4], "test": rows[4:]})
    words = ("--train", str(table), "--source", "split=test", "--train-source", "split=train")
    report, _, _ = run_task(loaded, table, *words, task="report")
    assert [row["answers"] for row in report["answers"]] == [["photo 4"], ["photo 5"]]
    assert report["majority"].endswith("annotation.json, 4 questions")


def test_only_and_exclude(loaded, table, tmp_path):
    words = ("--only", "picture=images/0*", "--only", "group=p1", "--exclude", "type=red")
    report, _, _ = run_task(loaded, table, *words)
    assert [row["picture"] for row in report["answers"]] == [f"images/{n}.jpg" for n in (0, 2, 3)]


def test_captions_of_shards_are_reports(loaded, tmp_path):
    shards = write_source(tmp_path / "held_out", [3], captions={"en": 6, "zh": 3})
    report, _, _ = run_task(loaded, shards, task="report")
    assert [len(row["answers"]) for row in report["answers"]] == [2, 1] * 3  # English and Chinese of each picture
    assert report["made_by"].keys() == {"en", "zh"}
    with pytest.raises(
        UserError, match=r"nothing for --task vqa: all that is usable, 6, are reports, which task report"
    ):
        run_task(loaded, shards)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--only", "plane"), r"--only plane: must be one of key, picture, type"),
        (("--only", "type=axial"), r"--only type=axial: fits none of 18 questions. There are: plane, red\."),
        (("--exclude", "key=*"), r"--exclude key=\*: takes away all 18 questions; exclude less"),
        (("--subset", "xrays", "@nowhere.txt"), r"--subset xrays @nowhere.txt: cannot be read"),
        (("--fields", "picture=img"), r"--fields picture=img: 'picture' is none of image, question"),
        (("--source", "splits=test"), r"--source splits=test: give KEY=VALUE, where KEY is one of split, format"),
        (("--source", "format=lavis"), r"--source format=lavis: the formats are json, jsonl"),
        (("--train", "t", "--train-source", "delimiter=ab"), r"--train-source: delimiter: must be one character"),
        (("--beams", "0"), "--beams must be above 0"),
    ],
)
def test_mistakes(loaded, table, tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        run_task(loaded, table, *words)


def test_real_questions(loaded, shared, tmp_path):
    """X-rays beside the few CT pictures, whose plane gives itself away."""
    table = shared / "data/xray_vqa/test.json"
    report, _, _ = run_task(loaded, table, "--only", "type=plane", "--images", "60")
    assert {row["type"] for row in report["answers"]} == {"plane"}
    assert report["sections"][0]["gains"]["accuracy"].keys() == {"majority", "shuffled", "blank"}
