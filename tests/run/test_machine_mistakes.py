"""What the machine lacks, or loses while a run goes on: one error says where and what to do, of all processes."""

import signal
import socket
from pathlib import Path

import psutil
import pytest
import torch

from run import runs
from vglm_train.engine.deepspeed_engine import DeepSpeedEngine

pytestmark = pytest.mark.usefixtures("alone")


def failed(process) -> str:
    """The one `error:` line of a run that ends by itself; the launcher's own report follows it."""
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, output
    assert 'train.py", line' not in output, output
    return errors[0]


def test_a_card_that_is_full(refused, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch says it; only a GPU says it of itself."""
    full = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.6 GiB. If reserved but"

    def step(*_: object) -> None:
        raise torch.OutOfMemoryError(full)

    monkeypatch.setattr(DeepSpeedEngine, "step", step)
    said = refused(config, f"run.folder={tmp_path / 'run'}", only_running="the card is full in a step")
    assert said.startswith(
        "the GPU's memory is full: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total"
    )
    assert "23.6 GiB. Set engine.recompute=true, or a smaller engine.micro_batch" in said


def test_nccl_without_gpus(refused, config: Path, tmp_path: Path) -> None:
    reason = "a run for GPUs may be described where there are none"
    said = refused(config, "engine.backend=nccl", f"run.folder={tmp_path / 'run'}", only_running=reason)
    assert said == "engine.backend is nccl, but this machine shows no NVIDIA GPU: use gloo or auto."
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mistake", ["data.global_batch=1", "data.train.0.shards=nowhere"])
def test_two_processes_say_it_once(config: Path, tmp_path: Path, mistake: str) -> None:
    """Met before the ranks know each other, and after."""
    said = failed(runs.start(runs.command(config, tmp_path / "run", 2, mistake)))
    assert "data.global_batch: one row at a time" in said or "nowhere" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_dead_worker(refused, config: Path, tmp_path: Path, processes: int) -> None:
    """Of the last rank, so that of two processes the one learns of it that usually speaks for both, from the other.

    While it runs, nobody else can train in its folder.
    """
    words = [f"run.folder={tmp_path / 'run'}", "run.length.steps=100000", "evaluate.every=null"]
    process = runs.start(runs.command(config, tmp_path / "run", processes, *words))
    runs.wait_for(tmp_path / "run", 3)
    if processes == 1:
        said = refused(config, *words, only_running="--check disturbs no run, and needs no lock")
        assert said.startswith(f"{tmp_path / 'run'}: another process is training here (process {process.pid} on ")
    ranks = [psutil.Process(process.pid)]
    if processes == 2:
        ranks = [p for p in ranks[0].children() if p.environ().get("RANK") == "1"]
    worker = next(p for p in ranks[0].children() if "train.py" in " ".join(p.cmdline()))
    worker.send_signal(signal.SIGKILL)
    said = failed(process)
    assert said.startswith("error: a loader worker died (")
    assert "Lower data.workers" in said


def test_a_full_disk(config: Path, tmp_path: Path) -> None:
    """No file may grow beyond 64 KiB here: the checkpoint does not fit."""
    command = runs.command(config, tmp_path / "run", 1)
    said = failed(runs.start(["bash", "-c", 'ulimit -f 64; exec "$@"', "bash", *command]))
    assert said.startswith(f"error: {tmp_path}/run/checkpoints/step-00000005: the checkpoint could not be written (")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_processes_that_were_told_different_things(config: Path, tmp_path: Path) -> None:
    """Two agents with different words, or two runs that meet by chance, would train one run at two rates."""
    words = {0: ["optim.lr=0.001", "data.workers=0"], 1: ["optim.lr=0.002", "data.workers=1"]}
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    started = [
        runs.start(
            runs.command(config, tmp_path / "run", 1, *words[rank]), RANK=str(rank), LOCAL_RANK=str(rank), **place
        )
        for rank in words
    ]
    said = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [2, 2], said
    assert "  optim.lr: 0.001 in process 0, 0.002 in process 1\n" in said[0]
    assert "data.workers" not in said[0], "a machine may have fewer cores"
    assert not (tmp_path / "run").exists()
