"""The report from real run folders: over, under way, killed, empty, and named in Chinese."""

import json
import math
import random
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from PIL import Image
from report.both import same_numbers

from vglm_train.errors import UserError
from vglm_train.log.run_info import RunInfo
from vglm_train.log.sinks import JsonlSink
from vglm_train.report import reference
from vglm_train.report.__main__ import main, report
from vglm_train.report.curves import label, running_mean
from vglm_train.report.runs import LoggedRun, read_runs
from vglm_train.report.verdict import assess_run

CHANCE = math.log(64)


def facts(name: str, **changes) -> RunInfo:
    values = {
        "name": name, "total_steps": 2000, "warmup_steps": 100, "epoch_samples": 12_800, "global_batch": 64,
        "candidates": 64, "vocabulary": 30523,
    }  # fmt: skip
    return RunInfo(**{**values, **changes})


def write_run(folder: Path, name: str, steps: int = 2000, blind: bool = False) -> Path:
    """A run that learns, or one whose ITC and ITM do not."""
    sink, rng = JsonlSink(folder, None), random.Random(0)
    facts(name).write(folder)
    for step in range(10, steps + 1, 10):
        left = math.exp(-step / 600)
        itc = CHANCE * (1 if blind else 0.3 + 0.7 * left) + rng.gauss(0, 0.02)
        itm = 0.637 + rng.gauss(0, 0.003) if blind else 0.2 + 0.49 * left
        itg = math.log(30523) * (0.25 + 0.75 * left)
        row = {"train/loss": itc + itm + itg, "train/loss_itc": itc, "train/loss_itm": itm, "train/loss_itg": itg}
        sink.write(step, {**row, "train/itm_accuracy": 2 / 3 if blind else 0.9, "perf/data_wait_fraction": 0.01})
        if step % 500 == 0:
            sink.write(
                step, {"eval/en_i2t_r1": 10.0, "eval/zh_i2t_r1": 8.0, "eval/en_i2t_r5": 30.0, "eval/r_mean": 9.0}
            )
            caption = f"红色 <b>step {step}</b>"
            sink.image_table(step, "retrieval", ["image", "best"], [[Image.new("RGB", (300, 200), "red"), caption]])
    sink.close()
    return folder


def texts(run: LoggedRun, kind: str) -> str:
    return "\n".join(line.text.en for line in same_numbers(assess_run(run)) if line.kind == kind)


def judged(folder: Path) -> LoggedRun:
    return read_runs([folder])[0]


def test_a_run_that_learns_is_normal(tmp_path):
    run = judged(write_run(tmp_path, "good"))
    assert texts(run, "warn") == ""
    fine = texts(run, "ok")
    assert "random weights start near 15.18 = ln(candidates) 4.16 + ln 2 0.69 + ln(vocabulary) 10.33" in fine
    assert "Within 10 %: normal." in fine
    assert all(re.search(rf"{term} .*: learning\.", fine) for term in ("ITC", "ITM", "ITG"))
    assert "29% of the" in fine
    assert "the public run (yiren-jian/BLIText" in fine
    assert "complete" in texts(run, "fact")


def test_a_run_that_learns_nothing_is_told_so(tmp_path):
    run = judged(write_run(tmp_path, "blind", steps=1400, blind=True))
    warnings_ = texts(run, "warn")
    assert "Alarm: ITM loss has stayed within 0.63-0.645" in warnings_
    assert "Alarm: ITC loss is still at or above ln 64 = 4.159" in warnings_
    assert "(67% right); an even guess costs ln 2 = 0.693" in texts(run, "fact")
    assert "Step 1400 of 2000 (70%): not complete." in texts(run, "fact")


def test_troubles_are_named(tmp_path):
    write_run(tmp_path, "a", steps=20)
    sink = JsonlSink(tmp_path, 20)
    bad = {"train/loss": math.nan, "train/steps_not_finite": 3.0, "data/damaged": 5.0, "data/damaged_image": 5.0}
    sink.write(30, {**bad, "perf/data_wait_fraction": 0.9})
    sink.close()
    run = judged(tmp_path)
    assert "3 steps were skipped" in texts(run, "warn")
    assert "31% of the time is spent waiting for data" in texts(run, "warn")
    assert "5 damaged samples were skipped (image 5)" in texts(run, "fact")


def test_names_that_older_runs_logged(tmp_path):
    row = {"step": 10, "train/loss": 3.0, "data/skipped": 5.0, "data/skipped_image": 5.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    run = judged(tmp_path)
    assert run.names() == {"train/loss", "data/damaged", "data/damaged_image"}
    assert "5 damaged samples were skipped (image 5)" in texts(run, "fact")


@pytest.mark.parametrize(("first", "kind", "words"), [(20.0, "warn", "starts 32% higher"), (9.0, "ok", "It is lower")])
def test_a_start_far_from_the_expected_one(tmp_path, first, kind, words):
    facts("a").write(tmp_path)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 10, "train/loss": first}) + "\n")
    assert words in texts(judged(tmp_path), kind)


def test_weights_count(tmp_path):
    facts("a", weights={"itc": 2.0, "itm": 0.0, "itg": 1.0}).write(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "train/loss": 18.0}\n')
    lines = "\n".join(line.text.en for line in assess_run(judged(tmp_path)))
    assert "start near 18.64 = 2 x ln(candidates) 4.16 + ln(vocabulary) 10.33." in lines
    assert "public run" not in lines, "another sum cannot be compared"


def test_the_page_needs_nothing_else(tmp_path, capsys):
    folders = [
        write_run(tmp_path / "a", "first & best"),
        write_run(tmp_path / "b", "第二个 $x_1", steps=600, blind=True),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that no font has warns
        path = report(folders, tmp_path / "out")
    html = path.read_text(encoding="utf-8")
    assert not re.search(r"https?://|<script|<link", html)
    assert "first &amp; best" in html
    assert "第二个 $x_1" in html
    assert "红色 &lt;b&gt;step 2000&lt;/b&gt;" in html, "the newest table, escaped"
    assert "step 1500" not in html
    with Image.open(tmp_path / "out" / "curves.png") as image:
        assert image.width > 1000
        assert image.height > 1000
    said = capsys.readouterr().out
    assert "learning." in said
    assert said.splitlines()[-1] == str(path)


def test_a_run_under_way_with_a_torn_line_and_few_metrics(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss_itc": 4.0}\n{"step": 2, "train/lo')
    run = judged(tmp_path)
    assert run.rows == [(1, {"train/loss_itc": 4.0})]
    assert "No facts.json" in texts(run, "fact")
    assert report([tmp_path], None) == tmp_path / "report" / "report.html"


def test_only_evaluation_rows(tmp_path):
    facts("a").write(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "eval/r_mean": 4.0}\n')
    assert "No row holds train/loss yet." in texts(judged(tmp_path), "fact")
    report([tmp_path], None)


def test_a_value_that_is_no_longer_finite_is_not_shown_as_the_last(tmp_path):
    rows = [{"step": 1, "train/loss": 4.25, "train/lr": 0.5}, {"step": 2, "train/loss": None, "train/lr": 0.25}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = report([tmp_path], None).read_text("utf-8")
    assert "<th>train/loss</th><td>not finite</td>" in page
    assert "<th>train/lr</th><td>0.25</td>" in page


def test_a_long_table_is_shown_from_end_to_end(tmp_path):
    """Its first rows are of one language."""
    facts("a").write(tmp_path)
    sink = JsonlSink(tmp_path, None)
    sink.write(1, {"train/loss": 3.0})
    sink.image_table(1, "retrieval", ["language", "text"], [["en" if n < 16 else "zh", f"row {n}"] for n in range(32)])
    sink.close()
    page = report([tmp_path], None).read_text("utf-8")
    assert page.count("<td>en</td>") == page.count("<td>zh</td>") == 8


def test_a_run_that_is_nearly_complete_is_not_complete(tmp_path):
    facts("a").write(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1999, "train/loss": 4.0}\n')
    assert "Step 1999 of 2000 (99%): not complete." in texts(judged(tmp_path), "fact")


def test_mistakes_give_one_clear_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "metrics.jsonl").write_text('{"step": 2, "tra')
    for name, words in (("none", "is not a folder"), ("empty", "holds no metrics.jsonl"), ("torn", "no complete line")):
        with pytest.raises(UserError, match=words):
            read_runs([tmp_path / name])
        assert main([str(tmp_path / name)]) == 2
        shown = capsys.readouterr()
        assert str(tmp_path / name) in shown.err
        assert shown.err.count("\n") == 1
    write_run(tmp_path / "a", "a", steps=50)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out"):
        report([tmp_path / "a"], tmp_path / "file")


def test_runs_of_one_name_are_told_apart(tmp_path):
    runs = read_runs([write_run(tmp_path / "a", "same", 50), write_run(tmp_path / "b", "same", 50), tmp_path / "a"])
    assert [run.label for run in runs] == [f"same ({tmp_path / 'a'})", f"same ({tmp_path / 'b'})"]


def test_labels_that_no_font_can_write_become_numbers(tmp_path):
    run = LoggedRun("\U00013000 hieroglyph", tmp_path, [], None, [])
    assert label(3, run) == "run 3"
    assert label(3, LoggedRun("a $5", tmp_path, [], None, [])) == r"3: a \$5"


def test_the_reference_is_the_published_one():
    assert round(reference.EXPECTED_START, 2) == 17.95
    assert reference.loss_at(0) == 17.76
    assert reference.loss_at(450) == 10.26
    assert reference.loss_at(2250) == 7.07
    assert reference.loss_at(9.5 * 4498) == 5.20
    assert 7.07 < (reference.loss_at(1000) or 0) < 10.26
    assert reference.loss_at(9.5 * 4498 + 1) is None
    assert len(reference.EPOCH_MEANS) == 10


def test_running_mean():
    assert running_mean([1.0] * 99) is None
    mean = running_mean([float(i) for i in range(100)])
    assert mean is not None
    assert mean[:3] == [0.0, 0.5, 1.5]
    assert mean[-1] == 98.5


def test_it_runs_as_a_module_without_torch(tmp_path):
    write_run(tmp_path, "a", 50)
    code = "import sys, vglm_train.report.__main__ as m; m.main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert (tmp_path / "report" / "curves.png").exists()


def speaking_run(folder: Path, gap: float) -> Path:
    """A run of stage two; its vocabulary and candidates mean nothing to its loss."""
    sink = JsonlSink(folder, None)
    facts("speaks", weights={"lm": 1.0}, total_steps=200).write(folder)
    for step in range(10, 201, 10):
        row = {"train/loss": 5 - step / 100, "train/loss_lm": 5 - step / 100, "train/lm_accuracy": 0.4}
        sink.write(step, {**row, "train/padding": 0.35, "perf/data_wait_fraction": 0.01})
    for language in ("en", "zh"):
        scores = {"cider": 40.0, "loss": 3.0, "shuffled_loss": 3 + gap, "loss_gap": gap, "loss_gap_low": gap - 0.1}
        sink.write(200, {f"eval/{language}_{name}": value for name, value in {**scores, "loss_gap_high": 0.5}.items()})
    sink.close()
    return folder


def test_a_run_of_stage_two_is_judged_by_what_it_has(tmp_path, capsys):
    run = judged(speaking_run(tmp_path / "looks", 0.3))
    assert "LM 4.900 at first (step 10), 3.450 ± 0.096 now, 40% of the tokens predicted: learning." in texts(run, "ok")
    assert "Held-out, zh: another image costs +0.300 nats a token, 95 % [+0.200, +0.500]: the model uses" in texts(
        run, "ok"
    )
    assert "35% of the positions are padding" in texts(run, "fact")
    blind = judged(speaking_run(tmp_path / "blind", 0.05))
    assert "en: another image costs +0.050" in texts(blind, "fact")
    assert "this could be a model that does not use its image" in texts(blind, "fact")
    page = report([tmp_path / "looks"], None).read_text("utf-8")
    assert "public run" not in capsys.readouterr().out + page
    assert "Black: the published curve" not in page
