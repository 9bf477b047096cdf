"""A run that was stopped or killed goes on as if nothing had happened: every logged number is the same, bit for bit."""

import json
import os
import signal

import pytest
from wandb_reader import logged_steps

from run import runs

WANDB = "log.wandb.mode=offline"


def test_a_whole_run_leaves_what_it_promises(straight):
    folder = straight[1]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    train = [row for row in rows if "train/loss" in row]
    assert [row["step"] for row in train] == list(range(1, 31))
    assert {"train/loss_itc", "train/loss_itm", "train/loss_itg", "train/lr", "train/grad_norm"} <= set(train[0])
    assert {"perf/samples_per_second", "perf/data_wait_fraction", "data/damaged", "data/epoch"} <= set(train[0])
    assert [row["step"] for row in rows if "eval/r_mean" in row] == [10, 20, 30]
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["latest", "step-00000025", "step-00000030"]
    assert (folder / "bundle" / "trained.safetensors").exists()
    assert [row["step"] for row in rows if "perf/start_seconds" in row] == [1]
    log = (folder / "log.txt").read_text()
    assert log.count("first step after ") == 1
    assert log.count(": checkpoint written in ") == 6


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_asked_to_stop_saves_and_continues(config, straight, tmp_path, processes):
    arguments = runs.command(config, tmp_path / "run", processes)
    process = runs.start(arguments)
    runs.wait_for(tmp_path / "run", 7)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "the same command continues" in output
    runs.finish(runs.start(arguments))
    assert runs.losses(tmp_path / "run") == runs.losses(straight[processes])


def test_a_finished_run_has_nothing_left_to_do(config, straight):
    before = runs.losses(straight[1])
    runs.finish(runs.start(runs.command(config, straight[1], 1)))
    assert runs.losses(straight[1]) == before


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_ten_moments(config, straight, tmp_path, processes):
    folder = tmp_path / "run"
    arguments = runs.command(config, folder, processes, WANDB)
    runs.kill_at_ten_moments(arguments, folder, processes)
    runs.finish(runs.start(arguments))
    assert runs.losses(folder) == runs.losses(straight[processes])
    assert not list((folder / "checkpoints").glob("*.tmp-*"))
    assert logged_steps(folder) == list(range(1, 31))
