"""metrics.jsonl, tables, and the console line."""

import json
import logging
import math
import os

import pytest
from PIL import Image

from vglm_train.distributed import Ranks
from vglm_train.log import console
from vglm_train.log.console import Progress, describe, duration
from vglm_train.log.jsonl import read_rows, read_tables
from vglm_train.log.sinks import ConsoleSink, JsonlSink


def steps(folder) -> list[int]:
    return [step for step, _ in read_rows(folder / "metrics.jsonl")]


def test_rows_come_back_exactly(tmp_path):
    sink = JsonlSink(tmp_path, None)
    row = {"train/loss": 0.1 + 0.2, "train/lr": 1e-4, "data/epoch": 3.0}
    sink.write(10, row)
    sink.write(10, {"eval/r_mean": 12.5})
    sink.close()
    assert list(read_rows(tmp_path / "metrics.jsonl")) == [(10, row), (10, {"eval/r_mean": 12.5})]
    first = (tmp_path / "metrics.jsonl").read_text().splitlines()[0]
    assert first == '{"step": 10, "train/loss": 0.30000000000000004, "train/lr": 0.0001, "data/epoch": 3.0}'


def test_what_is_not_finite_stays_valid_json(tmp_path):
    sink = JsonlSink(tmp_path, None)
    sink.write(1, {"train/loss": math.nan, "train/grad_norm": math.inf, "train/lr": 1.0})
    sink.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "step": 1, "train/loss": None, "train/grad_norm": None, "train/lr": 1.0,
    }  # fmt: skip
    ((_, row),) = read_rows(tmp_path / "metrics.jsonl")
    assert math.isnan(row["train/loss"])
    assert row["train/lr"] == 1.0


def test_a_row_is_on_disk_at_once(tmp_path):
    sink = JsonlSink(tmp_path, None)
    sink.write(1, {"train/loss": 1.0})
    assert steps(tmp_path) == [1]
    sink.close()


@pytest.mark.parametrize("torn", [b"", b'{"step": 40, "train/lo', b'{"step": 40}', b"\x00\x00\x00"])
def test_resume_cuts_back_to_the_checkpoint(tmp_path, torn):
    sink = JsonlSink(tmp_path, None)
    for step in (10, 20, 30):
        sink.write(step, {"train/loss": float(step)})
    sink.write(20, {"eval/r_mean": 1.0})
    sink.close()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(before + torn)
    JsonlSink(tmp_path, 30).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    sink = JsonlSink(tmp_path, 20)
    assert steps(tmp_path) == [10, 20, 20]
    sink.write(30, {"train/loss": 31.0})
    sink.close()
    assert steps(tmp_path) == [10, 20, 20, 30]
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_a_run_without_checkpoint_starts_empty(tmp_path):
    sink = JsonlSink(tmp_path, None)
    sink.write(1, {"train/loss": 1.0})
    sink.image_table(1, "eval/matches", ["a"], [["x"]])
    sink.close()
    JsonlSink(tmp_path, None).close()
    assert steps(tmp_path) == []
    assert read_tables(tmp_path) == []


def test_tables_are_kept_and_cut_back(tmp_path):
    sink = JsonlSink(tmp_path, None)
    red = Image.new("RGB", (16, 8), (250, 0, 0))
    for step in (20, 40):
        sink.image_table(step, "eval/matches", ["picture", "caption", "score"], [[red, "红色的圆", 0.5], [red, "b", 1]])
    sink.image_table(20, "eval/matches", ["picture", "caption", "score"], [[red, "again", 0.5]])
    sink.close()
    assert [table.step for table in read_tables(tmp_path)] == [20, 40]
    columns, rows = read_tables(tmp_path)[1].read()
    assert columns == ["picture", "caption", "score"]
    assert rows[0][1:] == ["红色的圆", 0.5]
    assert rows[0][0].size == (16, 8)
    assert rows[0][0].getpixel((0, 0))[0] > 240
    assert read_tables(tmp_path)[0].read()[1][0][1] == "again"
    JsonlSink(tmp_path, 20).close()
    assert [table.step for table in read_tables(tmp_path)] == [20]


def test_a_training_line_says_what_matters():
    seconds = iter([0.0, 100.0, 100.0, 110.0])
    progress = Progress(500, 0, lambda: next(seconds))
    row = {
        "train/loss": 8.123, "train/loss_itc": 3.2, "train/loss_itm": 0.65, "train/loss_itg": 4.273,
        "train/itm_accuracy": 0.66, "train/grad_norm": 1.25, "train/lr": 1e-4, "train/temperature": 0.07,
        "perf/samples_per_second": 412.4, "perf/data_wait_fraction": 0.021, "perf/memory_gib": 17.25,
        "data/damaged": 0.0,
    }  # fmt: skip
    assert describe(10, row, progress) == (
        "step 10/500 (2.0 %)  loss 8.1230 = itc 3.2000 + itm 0.6500 + itg 4.2730  itm right 66%  grad 1.25  "
        "lr 1.00e-04  412.4 samples/s  data wait 2%  17.2 GiB  ETA 1 h 22 min"
    )
    assert describe(20, {"train/loss": 1.0, "data/damaged": 3.0}, progress) == (
        "step 20/500 (4.0 %)  loss 1.0000  3 damaged samples  ETA 8 min"  # the start-up no longer counts
    )


def test_an_evaluation_line():
    line = describe(20, {"eval/r_mean": 31.25, "eval/i2t_r1": 1 / 3}, Progress(500, 0, lambda: 0.0))
    assert line == "step 20/500 (4.0 %)  evaluation: i2t_r1 0.3333  r_mean 31.25"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3600, "1 h 00 min"), (3 * 86400, "3 d 00 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_rank_0_speaks_and_the_others_warn_into_the_same_log(tmp_path, capsys):
    logger = console.setup(Ranks(rank=0, world=2), tmp_path)
    ConsoleSink(100).write(10, {"train/loss": 2.0})
    logger.warning("careful")
    text = (tmp_path / "log.txt").read_text()
    assert "step 10/100 (10.0 %)  loss 2.0000" in text
    assert "WARNING: careful" in text
    assert capsys.readouterr().err == text
    console.setup(Ranks(rank=1, world=2), tmp_path)
    ConsoleSink(100).write(20, {"train/loss": 2.0})
    logger.warning("from another rank")
    said = capsys.readouterr().err
    assert said.endswith("[rank 1] WARNING: from another rank\n")
    assert (tmp_path / "log.txt").read_text() == text + said
    logging.getLogger(console.LOGGER).handlers.clear()
    logger.propagate = True
