"""The benchmark of stored features runs, at a toy size, and tells both rates."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("stage", ["align", "generate"])
def test_a_toy_size_on_the_cpu(stage: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.features", "--tiny", "--stage", stage, "--folder", str(tmp_path)]
    done = subprocess.run(
        [*command, "--batch", "4", "--steps", "3", "--workers", "1"],
        cwd=ROOT,
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    rates = {name: float(rate) for name, rate in re.findall(r"^(encoder|stored) +([\d.]+)", done.stdout, re.MULTILINE)}
    ratio = re.search(rf"{stage}: ([\d.]+) times as fast", done.stdout)
    assert ratio is not None
    assert float(ratio[1]) == pytest.approx(rates["stored"] / rates["encoder"], rel=0.1)
    assert not list(tmp_path.iterdir())
