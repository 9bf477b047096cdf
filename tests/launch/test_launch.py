"""The launch scripts start real training: whichever way two processes come to be, the losses are the same."""

import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from run import runs

LAUNCH = runs.ROOT / "launch"
SHORT = ("run.length.steps=5", "evaluate.every=null", "data.validation=[]", "data.workers=0")

# srun as far as the script uses it: SLURM_NTASKS tasks with their numbers; the first failure ends the job.
SRUN = """#!/usr/bin/env bash
set -euo pipefail
while [[ $1 == --* ]]; do shift; done
for task in $(seq 0 $((SLURM_NTASKS - 1))); do
    SLURM_PROCID=$task SLURM_LOCALID=$((task % SLURM_NTASKS_PER_NODE)) "$@" &
done
for task in $(jobs -p); do wait "$task"; done
"""
SCONTROL = """#!/usr/bin/env bash
[ "$1 $2" = "show hostnames" ] && echo "$3" | tr ',' '\\n'
"""
# pdsh and ssh where every machine is this one: `pdsh -S -f N -w a,b COMMAND`, in which %n is the machine's number
PDSH = """#!/usr/bin/env bash
set -euo pipefail
IFS=, read -ra hosts <<<"$5"
shift 5
for number in "${!hosts[@]}"; do bash -c "$(echo "$*" | sed "s/%n/$number/g")" & done
for host in $(jobs -p); do wait "$host"; done
"""
SSH = """#!/usr/bin/env bash
while [[ $1 == -* ]]; do shift 2; done
shift
exec "$@"
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_run(tmp_path_factory.mktemp("data"))


@pytest.fixture
def stand_ins(tmp_path: Path) -> str:
    """A PATH on which srun, scontrol, pdsh and ssh are the stand-ins above."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("pdsh", PDSH), ("ssh", SSH)):
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRWXU)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def hostfile(tmp_path: Path) -> Path:
    path = tmp_path / "hostfile"
    path.write_text("# two machines\n\nlocalhost slots=1\n127.0.0.1 slots=1\n")
    return path


@pytest.fixture(scope="module")
def expected(config: Path, tmp_path_factory: pytest.TempPathFactory) -> list:
    """Losses of two processes started by launch/local.sh."""
    folder = tmp_path_factory.mktemp("local") / "run"
    process = runs.start([str(LAUNCH / "local.sh"), str(config), f"run.folder={folder}", *SHORT], PROCESSES="2")
    output = runs.finish(process)
    assert "done:" in output
    return runs.losses(folder)


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


@pytest.mark.slow
def test_local_starts_as_many_processes_as_asked(config: Path, expected: list, tmp_path: Path) -> None:
    alone = tmp_path / "run"
    runs.finish(runs.start(runs.command(config, alone, 1, *SHORT)))
    assert {step for step, _, _ in expected} == set(range(1, 6))
    assert runs.losses(alone) != expected, "dropout differs by rank: these were not two processes"


@pytest.mark.slow
def test_two_machines_without_ssh(config: Path, expected: list, hostfile: Path, tmp_path: Path) -> None:
    words = [str(LAUNCH / "multinode.sh"), str(hostfile), str(config), f"run.folder={tmp_path / 'run'}", *SHORT]
    port = free_port()
    machines = [runs.start(words, NODE_RANK=str(number), MASTER_PORT=port) for number in (0, 1)]
    outputs = [runs.finish(machine) for machine in machines]
    assert all("dist_world_size=2" in output for output in outputs), "the deepspeed launcher did not run"
    assert runs.losses(tmp_path / "run") == expected


@pytest.mark.slow
def test_two_machines_with_ssh(config: Path, expected: list, hostfile: Path, stand_ins: str, tmp_path: Path) -> None:
    words = [str(LAUNCH / "multinode.sh"), str(hostfile), str(config), f"run.folder={tmp_path / 'run'}", *SHORT]
    output = runs.finish(runs.start(words, PATH=stand_ins, MASTER_PORT=free_port()))
    assert output.count("nnodes=2, num_local_procs=1") == 2
    assert runs.losses(tmp_path / "run") == expected


@pytest.mark.slow
def test_slurm(config: Path, expected: list, stand_ins: str, tmp_path: Path) -> None:
    words = [str(LAUNCH / "slurm.sh"), str(config), f"run.folder={tmp_path / 'run'}", *SHORT]
    job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_NODELIST": "127.0.0.1,b",
           "SLURM_SUBMIT_DIR": str(runs.ROOT), "MASTER_PORT": free_port(), "PATH": stand_ins}  # fmt: skip
    runs.finish(runs.start(words, **job, SLURM_LOCALID="0"))
    assert runs.losses(tmp_path / "run") == expected


@pytest.mark.slow
def test_a_mistake_ends_the_slurm_job_with_its_status(config: Path, stand_ins: str, tmp_path: Path) -> None:
    words = [str(LAUNCH / "slurm.sh"), str(config), f"run.folder={tmp_path / 'run'}", "data.global_batch=1"]
    job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NODELIST": "127.0.0.1",
           "SLURM_SUBMIT_DIR": str(runs.ROOT), "MASTER_PORT": free_port(), "PATH": stand_ins}  # fmt: skip
    process = runs.start(words, **job)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "data.global_batch: one row at a time" in output


def script(name: str, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script with `echo` for an interpreter: it prints what it would start."""
    variables = {**os.environ, "PYTHON": "echo", **environment}
    command = [str(LAUNCH / name), *map(str, words)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", ["local.sh", "multinode.sh", "slurm.sh"])
def test_usage(name: str) -> None:
    asked, bare = script(name, "--help"), script(name)
    assert (asked.returncode, bare.returncode) == (0, 2)
    assert "CONFIG.yaml [section.key=value ...]" in asked.stdout
    assert asked.stdout == bare.stderr
    assert "set -euo" not in asked.stdout


def test_local_counts_visible_gpus() -> None:
    words = f"{runs.ROOT / 'train.py'} run.yaml optim.lr=1e-4"
    several = f"-m torch.distributed.run --standalone --nproc-per-node 3 {words}"
    for visible, wanted in (("0,3,5", several), ("", words), ("2", words)):
        done = script("local.sh", "run.yaml", "optim.lr=1e-4", CUDA_VISIBLE_DEVICES=visible)
        assert done.stdout.strip() == wanted


def test_multinode_asks_the_deepspeed_launcher(hostfile: Path, stand_ins: str) -> None:
    done = script("multinode.sh", hostfile, "run.yaml", PATH=stand_ins)
    options = f"--hostfile {hostfile} --master_addr localhost --master_port 29500 --no_local_rank"
    train = runs.ROOT / "train.py"
    assert done.stdout.strip() == f"-m deepspeed.launcher.runner {options} --force_multi {train} run.yaml"
    done = script("multinode.sh", hostfile, "run.yaml", NODE_RANK="1", MASTER_ADDR="10.0.0.1", MASTER_PORT="1")
    assert "--master_addr 10.0.0.1 --master_port 1 --no_local_rank --no_ssh --node_rank 1" in done.stdout


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("# nothing\n")
    for words, message in [
        (("multinode.sh", tmp_path / "none", "run.yaml"), "none: no such hostfile"),
        (("multinode.sh", tmp_path / "empty", "run.yaml"), "names no machine"),
        (("slurm.sh", "run.yaml"), "no Slurm job: submit this script with sbatch"),
    ]:
        done = script(*words)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("bash", "env", "dirname", "awk"):
        (bare / name).symlink_to(shutil.which(name))
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("a slots=1\n")
    done = script("multinode.sh", hostfile, "run.yaml", PATH=str(bare))
    assert done.returncode == 2
    assert done.stderr.startswith("error: pdsh is not installed: apt-get install pdsh, or run this on every machine")
    done = script("slurm.sh", "run.yaml", SLURM_JOB_ID="1", SLURM_SUBMIT_DIR=str(tmp_path))
    assert "no train.py in it; submit from the repository's folder" in done.stderr
