"""Whole runs as a user starts them: `train.py`, alone or under torchrun, on made-up shards."""

import contextlib
import json
import logging
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import psutil
import yaml
from made_shards import TOKENS, write_source

from train import main
from vglm_train.config.metric_meanings import undescribed

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = (40, 33, 27)


def write_run(folder: Path) -> Path:
    """Shards, vocabulary and a configuration with everything random on: crop, flip, captions, dropout, negatives."""
    write_source(folder / "train", SAMPLES, captions={"en": 200, "zh": 100})
    write_source(folder / "val", [12], first=180, captions={"en": 24, "zh": 12})
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join([*TOKENS, *map(str, range(200))]) + "\n", "utf-8")
    config = {
        "run": {"name": "tiny", "length": {"steps": 30}, "seed": 3},
        "model": {
            "vision": {
                "image_size": 16, "patch": 8, "width": 24, "depth": 1, "heads": 2, "mlp_width": 48, "dtype": "fp32",
            },
            "qformer": {
                "layers": 2, "width": 32, "heads": 2, "mlp_width": 1024, "queries": 4, "positions": 16, "dropout": 0.1,
            },
            "text": {"tokenizer": str(vocabulary), "max_length": 10, "processor": "plain", "language_token": True},
            "contrastive_width": 16,
        },
        "data": {
            "train": [{"name": "made", "shards": str(folder / "train")}],
            "validation": [{"name": "made", "shards": str(folder / "val")}],
            "languages": ["en", "zh"],
            "global_batch": 8,
            "workers": 2,
            "shuffle_shards": 2,
        },
        "optim": {"lr": 1e-3, "warmup": {"steps": 4}},
        "engine": {"precision": "fp32", "backend": "gloo"},
        "checkpoint": {"every": 5},
        "log": {"every": 1},
        "evaluate": {"every": 10, "rerank": 4, "table": 2},
    }  # fmt: skip
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def command(
    config: Path, run_folder: Path, processes: int, *overrides: str, launcher: list[str] | None = None
) -> list[str]:
    """A start of `processes` processes on this machine, or by another `launcher`."""
    if launcher is None:
        launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return [*launcher, str(ROOT / "train.py"), str(config), f"run.folder={run_folder}", *overrides]


def start(arguments: list[str], folder: Path = ROOT, **environment: str) -> subprocess.Popen:
    """In a process group of its own, as a terminal's Ctrl-C reaches it."""
    variables = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        arguments,
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen, seconds: float = 240) -> str:
    """Wait; returns what it printed. Fails with that if the status is not 0."""
    output, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, output
    return output


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Each start in this process as from a fresh shell, but for the process group, which DeepSpeed cannot do without
    once it had one.

    Afterwards the log is as tests of other packages expect it.
    """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    with patch.dict(os.environ, {"DS_ACCELERATOR": "cpu"}), patch("vglm_train.distributed.stop", lambda: None):
        for name in names:
            os.environ.pop(name, None)
        yield
    logger = logging.getLogger("vglm_train")
    logger.propagate = True
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


def finish_here(config: Path, run_folder: Path, *overrides: str) -> None:
    """A run of one process in this one, where nobody is to stop it: without the seconds that imports take."""
    with alone():
        assert main([str(config), f"run.folder={run_folder}", *overrides]) == 0


def rows(folder: Path) -> dict[int, dict[str, float]]:
    """Step -> what was logged of its losses."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row for row in found if "train/loss" in row}


def wait_for(folder: Path, step: int, seconds: float = 120) -> None:
    """Until `step` is logged."""
    metrics, end = folder / "metrics.jsonl", time.monotonic() + seconds
    while time.monotonic() < end:
        if metrics.exists() and f'"step": {step},' in metrics.read_text():
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached in {seconds} s")


def kill(process: subprocess.Popen) -> None:
    """kill -9 to launcher, ranks (which have sessions of their own) and workers at once, as a power cut would."""
    everyone = []
    with contextlib.suppress(psutil.NoSuchProcess):  # it may have come to its end just now
        everyone = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for each in everyone:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.communicate()


def python_path(*folders: Path) -> str:
    """Folders to import from, before those that this process was told."""
    return os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])


def slow_disk(folder: Path) -> dict[str, str]:
    """Environment of a process for which every fsync takes 0.2 s: time to die while a checkpoint is written."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import os, time\nfsync = os.fsync\nos.fsync = lambda file: (time.sleep(0.2), fsync(file))[1]\n"
    )
    return {"PYTHONPATH": python_path(folder)}


def losses(run_folder: Path) -> list[tuple]:
    """(step, name, value) of every training and evaluation metric, exactly as logged; speed is not among them."""
    found = []
    for line in (run_folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        found += [(row["step"], k, v) for k, v in sorted(row.items()) if k.startswith(("train/", "eval/", "data/"))]
    return found


def train_rows(folder: Path) -> dict[int, dict[str, float]]:
    """Step -> its row of training metrics."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row for row in found if "train/loss" in row}


def consumed(folder: Path) -> dict[int, list[str]]:
    """Step -> what all ranks noted that they read in it."""
    found: dict[int, list[str]] = {}
    for path in sorted(folder.glob("samples-*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            found.setdefault(row["step"], []).extend(row["keys"])
    return {step: sorted(keys) for step, keys in sorted(found.items())}


def kill_at_ten_moments(arguments: list[str], folder: Path, seed: int) -> None:
    """Start and kill it ten times; three of the moments are while a checkpoint is being written."""
    chance, slow = random.Random(seed), slow_disk(folder.with_name(f"{folder.name}_slow"))
    unfinished = 0
    for number in range(10):
        process = start(arguments, **(slow if number % 3 == 2 else {}))
        if number % 3 == 2:
            unfinished += _kill_while_saving(process, folder, (number - 2) / 6)
        else:
            wait_for(folder, min(29, _newest(folder) + chance.randint(1, 5)))
            time.sleep(chance.random() * 0.3)
            kill(process)
    assert unfinished == 3


def _newest(folder: Path) -> int:
    pointer = folder / "checkpoints" / "latest"
    return int(pointer.read_text().removeprefix("step-")) if pointer.exists() else 0


def _kill_while_saving(process, folder: Path, delay: float) -> bool:
    """Kill `delay` seconds after a half-written checkpoint is seen; whether one was left, or one not named yet."""
    place, end = folder / "checkpoints", time.monotonic() + 120
    while not list(place.glob("*.tmp-*")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "no checkpoint was written"
        time.sleep(0.01)
    time.sleep(delay)
    kill(process)
    return bool(list(place.glob("*.tmp-*"))) or sorted(place.glob("step-*"))[-1].name != f"step-{_newest(folder):08d}"


def undescribed_metrics(run_folder: Path) -> list[str]:
    """Names in metrics.jsonl that the reference page does not explain."""
    lines = (run_folder / "metrics.jsonl").read_text().splitlines()
    return undescribed(sorted({name for line in lines for name in json.loads(line)} - {"step"}))
