"""The benchmark runs, at a toy size, and its table says what it measured."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import stage1

ROOT = Path(__file__).resolve().parents[2]


def test_a_toy_size_on_the_cpu():
    command = [sys.executable, "-m", "benchmarks.stage1", "--tiny", "--cpu", "--batch", "4", "--steps", "3"]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [*command, "--compile", "no"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    table = done.stdout[done.stdout.index("images/s") :].splitlines()
    header, rows = table[0].split(), [line for line in table[1:] if ", eager" in line]
    assert header[0] == "images/s"
    assert len(rows) >= 1
    for row in rows:
        images, milliseconds = (float(number) for number in row.split("eager")[1].split()[:2])
        assert abs(images * milliseconds / 1000 - 4) < 0.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU: its memory was not looked at")
def test_memory_of_an_earlier_variant_is_not_the_next_ones():
    batch = SimpleNamespace(pixels=torch.empty(0, device="cuda"), valid=torch.empty(1))
    large = stage1.measure("large", lambda _: torch.empty(2**28, device="cuda").zero_(), [batch], 2, 1.0)
    small = stage1.measure("small", lambda _: torch.empty(1, device="cuda").zero_(), [batch], 2, 1.0)
    assert large.gib >= 1
    assert small.gib < large.gib - 0.9
