"""`vglm compare`: two results of one evaluation, question by question, and pairs that must not be compared."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from made_shards import write_source
from run_tasks import run_task

from vglm_train.evaluate.caption.command import _row
from vglm_train.evaluate.caption.evaluator import GeneratedCaption
from vglm_train.evaluate.compare.__main__ import main
from vglm_train.evaluate.compare.differences import compare
from vglm_train.evaluate.compare.read import read_result

pytestmark = pytest.mark.usefixtures("no_java")


@pytest.fixture
def save(tmp_path):
    def write(name, report):
        path = tmp_path / name
        path.write_text(json.dumps(report), "utf-8")
        return path

    return write


def made(right, language="en", kind="closed", **changes):
    """A result of vqa: `right` of each question, four about a patient."""
    rows = [
        {
            "key": f"{n:04d}", "picture": f"{n}.jpg", "image_id": n, "language": language, "question": "is it?",
            "kind": kind, "type": f"type{n % 2}", "group": f"p{n // 4}", "answers": ["yes"],
            "points": {"accuracy": [float(value), 1.0]},
        }
        for n, value in enumerate(right)
    ]  # fmt: skip
    scores = {"accuracy": 100 * float(np.mean(right)), "distinct": 50.0}
    return {"task": "vqa", "meaning": 3, "answers": rows, "scores": {"model": scores}} | changes


def run(capsys, first, second, *words):
    status = main([str(first), str(second), *words])
    return status, capsys.readouterr()


def test_two_runs_of_one_model(loaded, table, save, capsys):
    """Another length of answers: the differences are those of the scores that each result tells."""
    results = [run_task(loaded, table, "--max-new", length, task="report")[0] for length in ("2", "3")]
    first, second = save("a.json", results[0]), save("b.json", results[1])
    status, said = run(capsys, first, second)
    assert status == 0
    assert "Differs, and may: decoding: " in said.out
    report = json.loads((first.parent / "a-against-b.json").read_text("utf-8"))
    whole = report["parts"][0]
    assert (whole["name"], whole["items"], whole["clusters"]) == ("all", 6, 3)
    scores = [result["scores"]["model"] for result in results]
    seen = {each["metric"] for each in whole["differences"]}
    assert {"f1", "normal", "en_rouge_l", "en_bleu4", "distinct"} <= seen
    for each in whole["differences"]:
        name = each["metric"]
        assert (each["first"], each["second"]) == pytest.approx((scores[0][name], scores[1][name]))
        assert each["difference"] == pytest.approx(scores[1][name] - scores[0][name])
        corpus = name.startswith(("en_bleu", "distinct"))
        assert (each["verdict"] == "no interval") is corpus
        assert (each["low"] is None) is corpus


def test_better_worse_and_not_told_apart(save, capsys):
    base = np.random.default_rng(0).integers(0, 2, 400)
    better = np.maximum(base, np.random.default_rng(1).random(400) < 0.15)
    status, said = run(capsys, save("a.json", made(base)), save("b.json", made(better)))
    assert status == 0
    (line,) = [
        line for line in said.out.splitlines() if line.startswith("  accuracy") and line.endswith("B is better")
    ][:1]
    assert f"{100 * np.mean(better) - 100 * np.mean(base):+.1f}" in line
    first, second = read_result(save("a.json", made(base))), read_result(save("b.json", made(better)))
    parts = {part.name: part for part in compare(first, second)}
    assert list(parts) == ["all", "type type0", "type type1"]
    gain = parts["all"].differences[0]
    assert 0 < gain.low < gain.difference < gain.high
    assert parts["all"].clusters == 100
    assert parts["type type1"].items == 200
    (back,) = [each for each in compare(second, first)[0].differences if each.metric == "accuracy"]
    assert (back.verdict, back.low, back.high) == ("worse", pytest.approx(-gain.high), pytest.approx(-gain.low))
    (same,) = [each for each in compare(first, first)[0].differences if each.metric == "accuracy"]
    assert (same.verdict, same.low, same.high) == ("not told apart", 0, 0)
    few = [read_result(save(f"{n}.json", made([n] * 8))) for n in (0, 1)]
    assert compare(*few)[0].differences[0].verdict == "too few"


def test_patients_are_drawn_together(save):
    """Answers of one patient that rise and fall together say less than as many patients."""
    rng = np.random.default_rng(2)
    change = np.repeat(rng.integers(-1, 2, 100), 4)
    base = np.full(400, 0.5)
    together = [save("a.json", made(base)), save("b.json", made(base + change / 2))]
    alone = [made(base), made(base + change / 2)]
    for report in alone:
        for row in report["answers"]:
            row["group"] = None
    widths = []
    for pair in (together, [save("c.json", alone[0]), save("d.json", alone[1])]):
        gain = compare(*map(read_result, pair))[0].differences[0]
        widths.append(gain.high - gain.low)
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.2)


def test_a_lower_loss_is_better(save):
    """Captions, whose loss is in nats."""

    def result(loss):
        items = [type("Item", (), {"key": str(n), "image_id": n, "captions": {"en": ("a",)}}) for n in range(40)]
        captions = [GeneratedCaption(n, "x", loss + n % 3 / 10, loss + 1) for n in range(40)]
        rows = [_row("en", items, caption, {"cider": 10.0 * loss}) for caption in captions]
        return {"task": "caption", "meaning": 3, "captions": rows, "made_by": {"en": {"tokenizer": "ptb"}}}

    first, second = (read_result(save(f"{loss}.json", result(loss))) for loss in (2.0, 1.5))
    found = {each.metric: each for each in compare(first, second)[0].differences}
    assert found["en_loss"].verdict == "better"
    assert found["en_loss"].difference == pytest.approx(-0.5)
    assert found["en_cider"].verdict == "worse"
    assert found["en_loss_gap"].verdict == "not told apart"
    broken = read_result(save("nan.json", result(float("nan"))))
    (loss,) = [each for each in compare(first, broken)[0].differences if each.metric == "en_loss"]
    assert (loss.verdict, loss.low) == ("no number", None)


def queries(ranks, rerank=False):
    rows = []
    for n, rank in enumerate(ranks):
        for direction, text in (("i2t", None), ("t2i", "one"), ("t2i", "two")):
            row = {"key": str(n), "image_id": n, "language": "en", "direction": direction, "text": text, "rank": rank}
            rows.append(row | ({"itm_accuracy": 1.0} if text is None else {}) | ({"rerank_rank": 1} if rerank else {}))
    return {"task": "retrieval", "meaning": 3, "rerank": 16, "queries": rows}


def test_retrieval_is_paired_over_pictures(save):
    first, second = read_result(save("a.json", queries([2, 0] * 20))), read_result(save("b.json", queries([1, 6] * 20)))
    (part,) = compare(first, second)
    assert (part.items, part.clusters) == (120, 40)
    found = {each.metric: each for each in part.differences}
    assert (found["en_i2t_r1"].first, found["en_i2t_r1"].second, found["en_i2t_r1"].verdict) == (0, 50, "better")
    assert (found["en_t2i_r5"].difference, found["en_t2i_r5"].verdict) == (0, "not told apart")
    assert found["en_t2i_r10"].difference == 50
    assert found["r_mean"].difference == pytest.approx(100 / 3)
    assert found["r_mean"].verdict == "better"
    assert found["en_itm_accuracy"].first == 100


def changed(report, **changes):
    report["answers"][3] |= changes
    return report


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (queries([1] * 8), "tasks vqa and retrieval; compare results of one task"),
        (made([1] * 8, meaning=2), "metrics of the two mean different things"),
        (made([1] * 8, protocol="vqav2"), "the protocols differ: None and vqav2"),
        (made([1] * 6), "not the same questions: 6 of 8 and 6 match; the first that only one has is 0006"),
        (made([1] * 9), "not the same questions: 8 of 8 and 9 match; the first that only one has is 0008"),
        (changed(made([1] * 8), image_id=77), "0003: image_id differs: 3 and 77; they are of different data (8 of 8"),
        (changed(made([1] * 8), answers=["no"]), '0003: answers differs: ["yes"] and ["no"]'),
        ({"scores": {}}, "b.json: it does not say which task it is of, as results of earlier versions do not"),
        ([1], "b.json: not a result of vglm evaluate: it is not a JSON object; give the JSON file that"),
        ({}, "b.json: not a result of vglm evaluate: it is not keys of a result"),
        ({"task": "vqa", "first": "a", "second": "b", "parts": []}, "b.json: this is a comparison; give two results"),
        ({"protocol": "vqav2", "scores": {}}, "b.json: it holds no score: the benchmark's server alone has the"),
        ({"protocol": "gqa", "scores": {"a": 1}, "answers": []}, "tasks vqa and protocol gqa; compare results of one"),
        ({"task": "vqa", "meaning": 3, "answers": [{"key": "a"}]}, "b.json: the result is damaged"),
    ],
)
def test_refused(save, capsys, second, message):
    status, said = run(capsys, save("a.json", made([1] * 8)), save("b.json", second))
    assert status == 2
    assert message in said.err
    assert said.err.count("\n") == 1


def test_files_that_cannot_be_read_or_written(save, tmp_path, capsys):
    first = save("a.json", made([1] * 8))
    missing = run(capsys, first, tmp_path / "none.json")[1].err
    assert "none.json: cannot be read: No such file or directory; give the JSON file that vglm evaluate" in missing
    answers = save("gqa.submission.json", [{"questionId": 1, "prediction": "red"}])
    assert "file for a benchmark's server; give the result beside it, gqa.json" in run(capsys, first, answers)[1].err
    (tmp_path / "text.json").write_text("hello")
    assert (
        "text.json: not a result of vglm evaluate: it is no JSON" in run(capsys, first, tmp_path / "text.json")[1].err
    )
    assert "exists already" in run(capsys, first, first, "--out", str(first))[1].err
    assert "ends with .json" in run(capsys, first, first, "--out", str(first.with_suffix(".html")))[1].err
    for name in ("a-against-a.json", "a-against-a-2.json"):  # nothing is written over
        said = run(capsys, first, first)[1].out
        assert said.endswith(f"{name}\n")
        assert "! A and B hold one and the same result" in said
    assert "A 与 B 是同一个结果" in (tmp_path / "a-against-a.html").read_text("utf-8")


def test_what_other_tables_and_tokenizers_scored_is_left_out(save, capsys):
    def result(fingerprint, tokenizer):
        report = made([1, 0] * 8, findings={"fingerprint": fingerprint}, made_by={"en": {"tokenizer": tokenizer}})
        for row in report["answers"]:
            row["points"] |= {"finding_recall": [1.0, 1.0], "normal": [1.0, 1.0], "en_rouge_l": [1.0, 1.0]}
        return report

    first, second = save("a.json", result("aa", "ptb")), save("b.json", result("bb", "nltk"))
    _, said = run(capsys, first, second)
    assert "Left out: finding_*: scored by different findings tables, aa and bb" in said.out
    assert "Left out: en_*: texts in en were scored by different libraries or tokenizers" in said.out
    names = {each.metric for each in compare(read_result(first), read_result(second))[0].differences}
    assert names == {"accuracy", "distinct"}


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_in_both_languages(save, tmp_path, capsys):
    run(capsys, save("a<b.json", made([0, 1] * 40)), save("b.json", made([1, 1] * 40)))
    page = (tmp_path / "a<b-against-b.html").read_text("utf-8")
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert "http" not in page
    assert "a<b" not in page
    for text in ("B is better", "B 更好", "95 % interval", "95 % 区间", "by chance", "偶然"):
        assert text in page


def test_captions_of_shards_keep_what_is_compared(loaded, save, tmp_path, capsys):
    shards = write_source(tmp_path / "held_out", [3], captions={"en": 6, "zh": 3})
    path = save("a.json", run_task(loaded, shards, task="report")[0])
    assert run(capsys, path, path)[0] == 0
    parts = json.loads((tmp_path / "a-against-a.json").read_text("utf-8"))["parts"]
    assert [part["name"] for part in parts] == ["all", "language en", "language zh"]
    assert {each["difference"] for part in parts for each in part["differences"]} == {0}


def of_protocol(right, **changes):
    """A result of a protocol: a score that each caption has, and BLEU, which all have together."""
    rows = [
        {"id": n, "picture": f"{n}.jpg", "answers": ["a"], "output": "a", "marks": {"cider": float(own)}}
        for n, own in enumerate(right)
    ]
    scores = {"cider": 100 * float(np.mean(right)), "bleu4": 20.0}
    made = {"protocol": "coco-caption", "version": 1, "fingerprint": "aa", "made_by": {"tokenizer": "ptb"}}
    return made | {"scores": scores, "answers": rows} | changes


def test_results_of_a_protocol(save, capsys):
    """CIDEr of one caption may be above 1."""
    first, second = save("a.json", of_protocol([0, 1.5] * 20)), save("b.json", of_protocol([2, 1.5] * 20))
    assert run(capsys, first, second)[0] == 0
    report = json.loads((first.parent / "a-against-b.json").read_text("utf-8"))
    assert report["task"] == "protocol coco-caption"
    (part,) = report["parts"]
    found = {each["metric"]: each for each in part["differences"]}
    assert (found["cider"]["first"], found["cider"]["second"], found["cider"]["verdict"]) == (75, 175, "better")
    assert found["bleu4"]["verdict"] == "no interval"
    other = save("c.json", of_protocol([1] * 40, made_by={"tokenizer": "nltk"}))
    _, said = run(capsys, first, other)
    assert "Left out: cider*: texts were scored by different libraries or tokenizers" in said.out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "gqa"}, "the protocols differ: coco-caption and gqa"),
        ({"version": 2}, "versions of the protocol differ: 1 and 2"),
        ({"fingerprint": "bb"}, "fingerprints of the protocol differ: aa and bb"),
    ],
)
def test_another_protocol_is_refused(save, capsys, changes, message):
    status, said = run(capsys, save("a.json", of_protocol([1] * 9)), save("b.json", of_protocol([1] * 9, **changes)))
    assert (status, message in said.err) == (2, True)
