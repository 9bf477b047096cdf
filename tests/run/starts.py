"""A run of a few steps, and a second start of it."""

import shutil
from pathlib import Path

from run import runs
from train import main

STEPS = 5  # of the first start; the second goes on to twice as many


def begin(home: Path, *words: str, steps: int = STEPS) -> None:
    runs.finish_here(home / "run.yaml", home / "run", f"run.length.steps={steps}", *words)
    shutil.rmtree(home / "run" / "bundle")


def go_on(home: Path, *words: str, steps: int = 2 * STEPS) -> int:
    return main([str(home / "run.yaml"), f"run.folder={home / 'run'}", f"run.length.steps={steps}", *words])


def second_start(home: Path, *words: str) -> tuple[object, ...]:
    """The command line of the second start."""
    return (home / "run.yaml", f"run.folder={home / 'run'}", f"run.length.steps={2 * STEPS}", *words)


def said(home: Path) -> str:
    return (home / "run" / "log.txt").read_text()
