"""Whole runs on two GPUs over NCCL: killed and continued. Runs where there are two GPUs, and says so where not."""

import pytest
import torch

from run import runs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs: NCCL was not tested here"),
]
GPU = ("engine.backend=auto", "engine.precision=bf16", "model.vision.dtype=bf16")


def test_killed_on_two_gpus(config, tmp_path):
    """Sums on a GPU may come in another order, so the losses are compared, not their bits."""
    runs.finish(runs.start(runs.command(config, tmp_path / "straight", 2, *GPU), DS_ACCELERATOR="cuda"))
    arguments = runs.command(config, tmp_path / "killed", 2, *GPU)
    process = runs.start(arguments, DS_ACCELERATOR="cuda")
    runs.wait_for(tmp_path / "killed", 12)
    runs.kill(process)
    assert "continuing from" in runs.finish(runs.start(arguments, DS_ACCELERATOR="cuda"))
    straight, killed = (
        {(step, name): value for step, name, value in runs.losses(tmp_path / run) if name.startswith("train/loss")}
        for run in ("straight", "killed")
    )
    assert straight.keys() == killed.keys()
    worst = max(abs(straight[key] - killed[key]) / abs(straight[key]) for key in straight)
    print(f"largest relative difference of a loss over {len(straight)} values: {worst:.2e}")
    assert worst < 1e-2
