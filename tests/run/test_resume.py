"""A run that was stopped or killed goes on as if nothing had happened: every logged number is the same, bit for bit."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from run import runs
from vglm_train.log.sinks import logged_steps, wandb_run_id

WANDB = "log.wandb.mode=offline"


def test_a_whole_run_leaves_what_it_promises(straight):
    folder = straight[1]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    train = [row for row in rows if "train/loss" in row]
    assert [row["step"] for row in train] == list(range(1, 31))
    assert {"train/loss_itc", "train/loss_itm", "train/loss_itg", "train/lr", "train/grad_norm"} <= set(train[0])
    assert {"perf/samples_per_second", "perf/data_wait_fraction", "data/skipped", "data/epoch"} <= set(train[0])
    assert [row["step"] for row in rows if "eval/r_mean" in row] == [10, 20, 30]
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["latest", "step-00000025", "step-00000030"]
    assert (folder / "bundle" / "trained.safetensors").exists()
    assert (folder / "log.txt").read_text()


@pytest.mark.parametrize("processes", [1, 2])
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
    """Three of the ten moments are while a checkpoint is being written."""
    folder = tmp_path / "run"
    arguments = runs.command(config, folder, processes, WANDB)
    chance, slow = random.Random(processes), runs.slow_disk(tmp_path / "slow")
    unfinished = 0
    for number in range(10):
        process = runs.start(arguments, **(slow if number % 3 == 2 else {}))
        if number % 3 == 2:
            unfinished += _kill_while_saving(process, folder, (number - 2) / 6)
        else:
            newest = _newest(folder)
            runs.wait_for(folder, min(29, newest + chance.randint(1, 5)))
            time.sleep(chance.random() * 0.3)
            runs.kill(process)
    assert unfinished == 3
    runs.finish(runs.start(arguments))
    assert runs.losses(folder) == runs.losses(straight[processes])
    assert not list((folder / "checkpoints").glob("*.tmp"))
    assert logged_steps(folder / "wandb", wandb_run_id(folder)) == set(range(1, 31))


def _newest(folder: Path) -> int:
    pointer = folder / "checkpoints" / "latest"
    return int(pointer.read_text().removeprefix("step-")) if pointer.exists() else 0


def _kill_while_saving(process, folder: Path, delay: float) -> bool:
    """Kill `delay` seconds after a half-written checkpoint is seen; whether one was left, or one not named yet."""
    place, end = folder / "checkpoints", time.monotonic() + 120
    while not list(place.glob("*.tmp")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "no checkpoint was written"
        time.sleep(0.01)
    time.sleep(delay)
    runs.kill(process)
    return bool(list(place.glob("*.tmp"))) or sorted(place.glob("step-*"))[-1].name != f"step-{_newest(folder):08d}"
