"""W&B offline for real: killed, resumed, and read back with W&B's own reader."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from wandb_reader import logged_steps, records, summary
from wandb_server import WandbServer

from vglm_train.config.run import Wandb
from vglm_train.errors import UserError
from vglm_train.log.delivered import last_delivered
from vglm_train.log.wandb_run import WandbRun, code_version, wandb_run_id

SCRIPT = Path(__file__).with_name("wandb_run.py")
STEPS = 23


def start(folder: Path, steps: int = STEPS, seconds: float = 0.0, patience: int = 600) -> subprocess.Popen:
    """The stand-in run, in a process group of its own. What it says goes to `folder`/said.txt, too."""
    command = [sys.executable, str(SCRIPT), str(folder), str(steps), str(seconds)]
    root = str(SCRIPT.parents[2])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
        "WANDB_DATA_DIR": str(folder / "data"),
        "WANDB_ERROR_REPORTING": "0",
        "PATIENCE": str(patience),
    }
    with (folder / "said.txt").open("w") as said:
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, text=True, env=environment, start_new_session=True
        )


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
    kill(process)


def kill(process: subprocess.Popen) -> None:
    """kill -9 of the process and W&B's service, which leads a process group of its own."""
    children = _children(process.pid)
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
    for run in runs:
        assert (run["run_group"], run["job_type"], run["notes"]) == ("stages", "align", "a stand-in")
        assert run["tags"] == ["small", "中文"]
    check_alerts(found, steps)
    check_summary(found, steps)
    history = [record["history"]["item"] for record in found if record["type"] == "history"]
    assert sorted(item["_step"] for item in history) == list(range(1, steps + 1))
    for item in history:
        assert item["train/loss"] == pytest.approx(10.0 / item["_step"], rel=1e-15)
        if item["_step"] % 4 == 0:
            assert item["eval/r_mean"] == item["_step"]
            assert item["eval/matches._type"] == "table-file"
            media = list((folder / "wandb").glob(f"offline-run-*/files/{item['eval/matches.path']}"))
            assert f"红色 {item['_step']}" in media[0].read_text(encoding="utf-8")


def check_alerts(found: list[dict], steps: int) -> None:
    """The matching head is blind until step 15: one alert when that is noticed, and one when it is over."""
    alerts = [record["alert"] for record in found if record["type"] == "alert"]
    assert [alert["level"] for alert in alerts] == ["WARN", "INFO"][: 1 + (steps >= 15)]
    assert alerts[0]["text"].startswith("step 9: ITM loss has stayed within 0.63-0.645")
    assert len({alert["title"] for alert in alerts}) == len(alerts)  # W&B drops what repeats a title within a minute


def check_summary(found: list[dict], steps: int) -> None:
    """Best and last values of all rows, though the last file may hold few of them; and the bundle."""
    last = summary(found)
    assert last["train/loss"] == pytest.approx({"min": 10 / steps, "last": 10 / steps})
    assert last["perf/samples_per_second"] == {"max": 1000, "last": 100}
    artifacts = [record["artifact"] for record in found if record["type"] == "artifact"]
    (artifact,) = [each for each in artifacts if each["type"] == "bundle"][-1:]
    assert artifact["name"] == "bundle-stand-in"
    (file,) = artifact["manifest"]["contents"]
    assert file["ref"].endswith("/bundle/bundle.json")


def test_a_run_that_is_never_killed(tmp_path):
    finish(tmp_path)
    check(tmp_path)


@pytest.mark.slow
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


def test_a_file_that_was_not_finished_is_sent_again(tmp_path):
    """A kill leaves any prefix of W&B's file, a power cut may leave a hole."""
    finish(tmp_path, 13)
    (path,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    path.write_bytes(path.read_bytes()[:700])
    (tmp_path / "wandb" / "delivered.json").unlink()
    finish(tmp_path)
    assert not path.exists()
    check(tmp_path)


def test_what_was_uploaded_is_not_sent_again(tmp_path):
    """`wandb sync` of a file that a kill had cut off leaves its mark and its summary."""
    finish(tmp_path, 13)
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    (folder / f"run-{wandb_run_id(tmp_path)}.wandb.synced").touch()
    (folder / "files" / "wandb-summary.json").write_text('{"_step": 7, "train/loss": 1.4}')
    (tmp_path / "wandb" / "delivered.json").unlink()
    finish(tmp_path)
    assert folder.exists()
    shutil.rmtree(folder)
    assert logged_steps(tmp_path) == list(range(8, STEPS + 1))


def test_what_an_online_process_has_sent_is_not_sent_again(tmp_path):
    """Its server has the rows up to the checkpoint. Twice, since a kill may follow."""
    online = tmp_path / "wandb" / f"run-20260101_000000-{wandb_run_id(tmp_path)}"
    online.mkdir(parents=True)
    assert last_delivered(tmp_path / "wandb", wandb_run_id(tmp_path), 10) == 10
    assert last_delivered(tmp_path / "wandb", wandb_run_id(tmp_path), 20) == 10
    assert online.exists()


def test_folders_of_other_runs_stay(tmp_path):
    other = tmp_path / "wandb" / "offline-run-20260101_000000-other"
    other.mkdir(parents=True)
    finish(tmp_path, 2)
    assert other.exists()


def wait_until_written(folder: Path, steps: int) -> None:
    """W&B's service writes its file every 15 seconds, or when a block is full."""
    end = time.monotonic() + 120
    while len(logged_steps(folder)) < steps:
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.slow
def test_killed_after_w_and_b_has_written_some_steps(tmp_path):
    process = start(tmp_path, 60, 0.5)
    wait_until_written(tmp_path, 6)
    kill(process)
    assert len(logged_steps(tmp_path)) >= 6
    finish(tmp_path, 60)
    check(tmp_path, 60)


def service(process: subprocess.Popen) -> int:
    """W&B's service, once the process is ready."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    (child,) = [pid for pid in _children(process.pid) if "wandb-core" in Path(f"/proc/{pid}/comm").read_text()]
    return child


def test_a_service_that_stalls_is_waited_for_and_then_given_up(tmp_path):
    """The run goes on and ends by itself, says how to send the rest, and the next start sends it."""
    process = start(tmp_path, seconds=0.05, patience=2)
    os.kill(service(process), signal.SIGSTOP)
    output, _ = process.communicate(timeout=60)
    assert output.split()[-1] == str(STEPS)
    assert process.returncode == 0
    said = (tmp_path / "said.txt").read_text()
    assert "W&B did not answer, so its service was ended. Nothing is lost" in said
    assert "Start the same command again" in said
    assert "Traceback" not in said
    finish(tmp_path)
    check(tmp_path)


@pytest.mark.slow
def test_a_stalled_service_holds_no_step(tmp_path):
    """More rows than the socket between the two takes are logged meanwhile; none is lost."""
    steps = 1500
    process = start(tmp_path, steps)
    stalled = service(process)
    os.kill(stalled, signal.SIGSTOP)
    assert process.stdout is not None
    assert [next(process.stdout) for _ in range(steps)][-1] == f"{steps}\n"
    os.kill(stalled, signal.SIGCONT)
    process.communicate(timeout=300)
    assert process.returncode == 0
    check(tmp_path, steps)


def test_a_run_goes_on_when_the_service_dies(tmp_path):
    process = start(tmp_path, seconds=0.05)
    os.kill(service(process), signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert output.split()[-1] == str(STEPS)
    assert process.returncode == 0
    said = (tmp_path / "said.txt").read_text()
    assert "W&B has failed" in said
    assert "Traceback" not in said
    finish(tmp_path)
    check(tmp_path)


def test_online_without_a_key_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "too-short")
    with pytest.raises(UserError, match=r"W&B could not start.*log\.wandb\.mode=offline"):
        WandbRun(Wandb(mode="online"), tmp_path, "b", "a", "align", {})


def test_the_agent_of_a_sweep_chooses_the_id(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "chosen")
    assert wandb_run_id(tmp_path) == "chosen"
    monkeypatch.setenv("WANDB_RUN_ID", "another")
    assert wandb_run_id(tmp_path) == "chosen"


def test_the_id_stays(tmp_path):
    first = wandb_run_id(tmp_path)
    assert wandb_run_id(tmp_path) == first
    assert wandb_run_id(tmp_path / "other") != first


@pytest.mark.slow
def test_the_server_gets_every_step_once(tmp_path):
    """A run that was stopped, killed, uploaded by hand with what the kill had left, continued, and uploaded again."""
    finish(tmp_path, 13)
    process = start(tmp_path, 60, 0.5)
    wait_until_written(tmp_path, 19)
    kill(process)
    with WandbServer() as server:
        sync(tmp_path, server)
        uploaded = server.steps()
        assert uploaded == list(range(1, len(uploaded) + 1))
        assert 13 < len(uploaded) < 60
        finish(tmp_path, 60)
        sync(tmp_path, server)
        assert server.steps() == list(range(1, 61))
        server.shutdown()
    assert sorted(logged_steps(tmp_path)) == list(range(1, 61))


def sync(folder: Path, server: WandbServer) -> None:
    """As a user uploads offline files."""
    command = [sys.executable, "-m", "wandb", "sync", *map(str, sorted((folder / "wandb").glob("offline-run-*")))]
    environment = {**os.environ, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": 40 * "a", "WANDB_ERROR_REPORTING": "0"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=folder, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
