"""W&B offline for real: killed, resumed, and read back with W&B's own reader."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from wandb_reader import logged_steps, records

from vglm_train.log.sinks import code_version, wandb_run_id

SCRIPT = Path(__file__).with_name("wandb_run.py")
STEPS = 23


def start(folder: Path, steps: int = STEPS, seconds: float = 0.0) -> subprocess.Popen:
    """The stand-in run, in a process group of its own."""
    command = [sys.executable, str(SCRIPT), str(folder), str(steps), str(seconds)]
    root = str(SCRIPT.parents[2])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
        "WANDB_DATA_DIR": str(folder / "data"),
        "WANDB_ERROR_REPORTING": "0",
    }
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def finish(folder: Path, steps: int = STEPS) -> None:
    process = start(folder, steps)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output


def kill_at(folder: Path, line: str, seconds: float = 0.01) -> None:
    """Start, and kill -9 the process and W&B's service when the process has said `line`."""
    process = start(folder, STEPS, seconds)
    assert process.stdout is not None
    for said in process.stdout:
        if said.strip() == line:
            break
    children = _children(process.pid)  # W&B's service leads a process group of its own
    os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        _kill(child)
    process.wait()


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def check(folder: Path, steps: int = STEPS) -> None:
    """Same id everywhere, every step once with its values, configuration and tables there."""
    found = records(folder)
    runs = [record["run"] for record in found if record["type"] == "run"]
    assert {run["run_id"] for run in runs} == {wandb_run_id(folder)}
    assert all(run["config"]["update"]["optim"] == {"lr": 1e-4} for run in runs)
    assert all(run["config"]["update"]["code"].keys() == code_version().keys() for run in runs)
    history = [record["history"]["item"] for record in found if record["type"] == "history"]
    assert sorted(item["_step"] for item in history) == list(range(1, steps + 1))
    for item in history:
        assert item["train/loss"] == pytest.approx(10.0 / item["_step"], rel=1e-15)
        if item["_step"] % 4 == 0:
            assert item["eval/r_mean"] == item["_step"]
            assert item["eval/matches._type"] == "table-file"
            media = list((folder / "wandb").glob(f"offline-run-*/files/{item['eval/matches.path']}"))
            assert f"红色 {item['_step']}" in media[0].read_text(encoding="utf-8")


def test_a_run_that_is_never_killed(tmp_path):
    finish(tmp_path)
    check(tmp_path)


def test_killed_at_several_moments(tmp_path):
    for line in ("ready", "3", "7", "14", "22"):
        kill_at(tmp_path, line)
    finish(tmp_path)
    check(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, STEPS + 1))


def test_stopped_beyond_its_checkpoint(tmp_path):
    finish(tmp_path, 13)  # delivers 13 steps; the checkpoint holds 10
    finish(tmp_path, 17)
    finish(tmp_path)
    check(tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_cut_anywhere(tmp_path, seed):
    """A kill leaves any prefix of W&B's file, a power cut may leave a hole."""
    finish(tmp_path, 13)
    path = next((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    whole = path.read_bytes()
    rng = random.Random(seed)
    cut = rng.randrange(len(whole))
    hole = rng.randrange(max(1, cut - 300)) if seed == 2 else cut
    path.write_bytes(whole[:hole] + bytes(min(200, cut - hole)) + whole[hole + 200 : cut])
    finish(tmp_path)
    check(tmp_path)


@pytest.mark.slow
def test_killed_after_w_and_b_has_written_some_steps(tmp_path):
    """W&B's service writes its file every 15 seconds: this process lives long enough to see it."""
    process = start(tmp_path, 60, 0.5)
    time.sleep(22)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert len(logged_steps(tmp_path)) > 5
    finish(tmp_path, 60)
    check(tmp_path, 60)


def test_the_id_stays(tmp_path):
    first = wandb_run_id(tmp_path)
    assert wandb_run_id(tmp_path) == first
    assert wandb_run_id(tmp_path / "other") != first


def test_one_file_holds_the_whole_run(tmp_path):
    """Also where an older one was uploaded: `wandb sync` writes over what the server has, from the first row on."""
    finish(tmp_path, 13)
    (older,) = (tmp_path / "wandb").glob("offline-run-*")
    (older / f"run-{wandb_run_id(tmp_path)}.wandb.synced").touch()
    kill_at(tmp_path, "14")
    assert older.exists(), "until a later file is whole"
    finish(tmp_path)
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 1
    assert not older.exists()
    check(tmp_path)


def test_files_of_other_runs_stay(tmp_path):
    other = tmp_path / "wandb" / "offline-run-20260101_000000-other"
    other.mkdir(parents=True)
    finish(tmp_path, 2)
    finish(tmp_path, 3)
    assert other.exists()
