"""The benchmark of divided blocks runs, at toy sizes: the same losses wherever the blocks lie, and bytes that moved."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.record import FILE

ROOT = Path(__file__).resolve().parents[2]
TOY = ["benchmarks.divided", "--tiny", "--cpu", "--rows", "4", "--steps", "2", "--warm-up", "1"]
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def found(folder: Path, launcher: list[str], *options: str) -> tuple[list[float], dict, str]:
    """First losses, what was recorded, and what was printed."""
    rows = folder / "rows.jsonl"
    rows.unlink(missing_ok=True)
    out = subprocess.run(
        [sys.executable, *launcher, "-m", *TOY, *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", FILE: str(rows)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (line,) = re.findall(r"^first losses (.+)$", out, re.MULTILINE)  # rank 0 alone prints
    (row,) = (json.loads(row) for row in rows.read_text("utf-8").splitlines())
    return [float(loss) for loss in line.split()], row, out


@pytest.mark.slow
def test_a_toy_size_on_the_cpu(tmp_path: Path) -> None:
    losses, plain, _ = found(tmp_path, [])
    assert len(losses) == 3
    assert plain["values"]["moved_gb"] == 0
    assert plain["samples_per_s"] * plain["ms"] / 1000 == pytest.approx(4, rel=0.01)

    others, offloaded, out = found(tmp_path, [], "--offload", "--compute-ms", "1000")
    assert others == losses
    assert offloaded["values"]["moved_gb"] > 0
    assert offloaded["floor_ms"] == 1000  # the larger of a transfer of a few bytes and a plain step
    assert f"takes {offloaded['ratio']:.2f}"[:-1] in out

    others, divided, _ = found(tmp_path, TWO, "--zero", "3")
    assert others == pytest.approx(losses, abs=1e-3)
    assert divided["values"]["moved_gb"] == pytest.approx(offloaded["values"]["moved_gb"], rel=0.1)  # rows are padded
    assert divided["name"] == "zero 3, 2 cards"
