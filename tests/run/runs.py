"""Whole runs as a user starts them: `train.py`, alone or under torchrun, on made-up shards."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import yaml
from made_shards import TOKENS, write_source

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = (40, 33, 27)


def write_run(folder: Path) -> Path:
    """Shards, vocabulary and a configuration with everything random on: crop, flip, captions, dropout, negatives."""
    write_source(folder / "train", SAMPLES, captions={"en": 200, "zh": 100})
    write_source(folder / "val", [12], captions={"en": 24, "zh": 12})
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


def command(config: Path, run_folder: Path, processes: int, *overrides: str) -> list[str]:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return [*launcher, str(ROOT / "train.py"), str(config), f"run.folder={run_folder}", *overrides]


def start(arguments: list[str], **environment: str) -> subprocess.Popen:
    """In a process group of its own, so that a kill takes launcher, ranks and workers at once."""
    variables = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        arguments,
        cwd=ROOT,
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


def kill(process: subprocess.Popen) -> None:
    """kill -9 to the whole group, as a power cut would."""
    with contextlib.suppress(ProcessLookupError):  # it may have come to its end just now
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def losses(run_folder: Path) -> list[tuple]:
    """(step, name, value) of every training and evaluation metric, exactly as logged; speed is not among them."""
    found = []
    for line in (run_folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        found += [(row["step"], k, v) for k, v in sorted(row.items()) if k.startswith(("train/", "eval/", "data/"))]
    return found
