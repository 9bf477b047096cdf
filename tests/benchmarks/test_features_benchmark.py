"""The benchmark of stored features runs, at a toy size, and tells both rates."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_a_toy_size_on_the_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.features", "--tiny", "--folder", str(tmp_path)]
    done = subprocess.run(
        [*command, "--batch", "4", "--steps", "3", "--workers", "1"],
        cwd=ROOT,
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    rates = [float(rate) for rate in re.findall(r"^(?:encoder|stored) +([\d.]+)", done.stdout, re.MULTILINE)]
    ratios = re.findall(r"^(\w+): ([\d.]+) times as fast", done.stdout, re.MULTILINE)
    assert [stage for stage, _ in ratios] == ["align", "generate"]
    assert [float(ratio) for _, ratio in ratios] == pytest.approx([rates[1] / rates[0], rates[3] / rates[2]], rel=0.1)
    assert not list(tmp_path.iterdir())
