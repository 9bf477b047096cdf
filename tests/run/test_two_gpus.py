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
    assert "continues from step-" in runs.finish(runs.start(arguments, DS_ACCELERATOR="cuda"))
    straight, killed = (
        {(step, name): value for step, name, value in runs.losses(tmp_path / run) if name.startswith("train/loss")}
        for run in ("straight", "killed")
    )
    assert straight.keys() == killed.keys()
    worst = max(abs(straight[key] - killed[key]) / abs(straight[key]) for key in straight)
    print(f"largest relative difference of a loss over {len(straight)} values: {worst:.2e}")
    assert worst < 1e-2


@pytest.mark.parametrize(("dtype", "first", "later"), [("fp32", 1e-5, 2e-3), ("fp16", 1e-2, 5e-2)])
def test_stage_two_on_one_and_two_gpus(speaking_config, tmp_path, dtype, first, later):
    """ZeRO 1 and 2 on one and two GPUs take the same steps.

    Losses agree as far as sums in another order do. AdamW's usual epsilon would turn what is left of gradients near
    zero into steps of full size, and the runs would drift apart: by 1e-2 in twelve steps of fp32 on two H200s, by 3e-4
    with this one (on a CPU by 5e-3 and 7e-6). fp16: an autocast product is rounded at 2^-9, and rounding differs with
    the rows that run together.
    """
    precision = "fp32" if dtype == "fp32" else "bf16"
    still = ("model.qformer.dropout=0", "data.validation=[]", "evaluate.every=null")
    short = (*still, "run.length.steps=12", "optim.eps=0.01", "engine.backend=auto")
    words = (*short, f"engine.precision={precision}", f"model.language.dtype={dtype}")
    found = {}
    for zero, world in ((1, 1), (1, 2), (2, 2)):
        folder = tmp_path / f"{zero}-{world}"
        command = runs.command(speaking_config["chatglm"], folder, world, *words, f"engine.zero={zero}")
        runs.finish(runs.start(command, DS_ACCELERATOR="cuda"))
        found[zero, world] = [value for _, name, value in runs.losses(folder) if name == "train/loss_lm"]
    alone = found.pop((1, 1))
    assert len(alone) == 12
    for key, losses in found.items():
        apart = [abs(mine - theirs) / theirs for mine, theirs in zip(losses, alone, strict=True)]
        print(
            f"{dtype}, ZeRO {key[0]} on {key[1]} GPUs: difference of a loss {max(apart[:3]):.2e}, then {max(apart):.2e}"
        )
        assert max(apart[:3]) < first
        assert max(apart) < later
