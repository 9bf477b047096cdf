"""The benchmark of contrastive batches runs, at a toy size, and compares with what runs at once."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("stored", [(), ("--stored",)])
def test_a_toy_size_on_the_cpu(stored):
    sizes = ("--direct", "4", "--compared", "8", "16", "--micro", "4", "--steps", "1", "--warm-up", "0")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.contrast", "--tiny", *sizes, *stored],
        cwd=ROOT,
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split() for line in done.stdout[done.stdout.index("pairs/s") :].splitlines()[1:]]
    lines = [line for line in lines if len(line) == 7]
    assert [line[:2] for line in lines] == [["4", "4"], ["8", "4"], ["16", "4"]]
    milliseconds, ratios = [float(line[3]) for line in lines], [float(line[4]) for line in lines]
    assert ratios == pytest.approx([each / milliseconds[0] for each in milliseconds], rel=0.01)


@pytest.mark.slow
def test_two_processes_compare_the_pairs_of_one():
    sizes = ["--direct", "--compared", "8", "16", "--micro", "4", "--steps", "1", "--warm-up", "0"]
    words = ["--tiny", *sizes, "--dropout", "0", "--losses", "--stored"]
    found = []
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]):
        done = subprocess.run(
            [sys.executable, *launcher, "-m", "benchmarks.contrast", *words],
            cwd=ROOT,
            env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        out = done.stdout
        assert out.count("pairs/s") == 1  # rank 0 alone prints
        found.append([float(loss) for loss in re.findall(r"^loss ([\d.]+)$", out, re.MULTILINE)])
    assert len(found[0]) == 2
    assert found[1] == pytest.approx(found[0], abs=1e-4)
