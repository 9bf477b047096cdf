"""`vglm clinic` as a person starts it, on data and a model as small as can be."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from run import runs

from examples.clinic.make_data import TABLE

SMALL = (
    "prompt.max_prompt=40", "prompt.max_answer=12", "prompt.questions={en: a photo, zh: 照片}", "engine.backend=gloo",
    "evaluate.decoding.max_new=4", "run.length.steps=6", "checkpoint.every=2", "evaluate.every=2", "data.workers=0",
    "optim.warmup.steps=1", "data.global_batch=4", "evaluate.patience=null",
)  # fmt: skip


def command(hospital: Path, base: Path, out: Path, salt: Path, *words: str) -> list[str]:
    given = [str(hospital), "--reports", TABLE, "--base", str(base), "--out", str(out), f"--salt={salt}"]
    return [sys.executable, "-m", "vglm_train", "clinic", *given, *words, *SMALL]


def environment() -> dict[str, str]:
    return {**os.environ, "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(runs.ROOT)}


def start(words: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """In a folder of a person's own."""
    return subprocess.run(
        words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=900, check=False
    )


def result(out: Path) -> dict[str, Any]:
    """What must not depend on where it was made, or how often it was stopped."""
    held = json.loads((out / "report.json").read_text("utf-8"))
    return {name: held[name] for name in ("questions", "scores", "sections", "answers")}
