"""Every configuration for fine-tuning is built as it stands and takes a step, at a toy size."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["xray_vqa_chatglm_ptuning", "xray_report_flan_t5"])
def test_a_toy_size_on_the_cpu(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.recipes", "--tiny", "--steps", "1", "--only", name],
        cwd=ROOT,
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    header, row = [line.split() for line in done.stdout.splitlines() if "GiB" in line or line.startswith(name)]
    assert header[:4] == ["trained", "rows", "tokens", "GiB"]
    assert row[0] == name
    assert int(row[1].replace(",", "")) > 0
    assert float(row[-1]) > 0
