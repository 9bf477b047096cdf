"""Whole runs with the Q-Former's passes as CUDA graphs: the losses of runs without, on one GPU and on two."""

from pathlib import Path

import pytest
import torch

from run import runs

GPUS = torch.cuda.device_count()
WORDS = ("engine.backend=auto", "engine.precision=bf16", "model.vision.dtype=bf16", "optim.eps=0.01")


def losses(config: Path, folder: Path, processes: int, *words: str) -> dict[tuple[int, str], float]:
    command = runs.command(config, folder, processes, *WORDS, *words)
    runs.finish(runs.start(command, DS_ACCELERATOR="cuda"))
    return {(step, name): value for step, name, value in runs.losses(folder) if name.startswith("train/loss")}


@pytest.mark.parametrize(
    "processes",
    [
        pytest.param(1, marks=pytest.mark.skipif(GPUS < 1, reason="CUDA graphs need a GPU")),
        pytest.param(2, marks=[pytest.mark.slow, pytest.mark.skipif(GPUS < 2, reason="needs two NVIDIA GPUs")]),
    ],
)
def test_losses_are_those_without(config: Path, tmp_path: Path, processes: int) -> None:
    plain = losses(config, tmp_path / "plain", processes, "engine.micro_batch=4", "engine.graphs=false")
    graphed = losses(config, tmp_path / "graphed", processes, "engine.micro_batch=4")
    assert plain.keys() == graphed.keys()
    apart = {key: abs(plain[key] - graphed[key]) / abs(plain[key]) for key in plain}
    first = max(value for (step, _), value in apart.items() if step <= 2)
    print(f"{processes} processes: losses differ by {first:.1e} in the first steps, {max(apart.values()):.1e} at most")
    assert first < 1e-3  # gradients are added in another order
    assert max(apart.values()) < 3e-2
