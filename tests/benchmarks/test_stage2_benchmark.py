"""The stage-two benchmark runs, at toy sizes, and its table says what it measured."""

import math
import re
import subprocess

import pytest
import torch

from benchmarks import stage2
from vglm_train.distributed import Ranks

TOY = ["--tiny", "--cpu", "--batch", "4", "--steps", "3"]


@pytest.mark.parametrize(
    ("name", "options", "rows"), [("chatglm-fp16", ("--parts",), 3), ("t5-bf16", ("--micro", "2", "--no-bare"), 1)]
)
def test_a_toy_size_on_the_cpu(name, options, rows, capfd):
    """A model is measured by a process of its own, which `main` starts."""
    assert stage2.main([*TOY, "--only", name, *options]) == 0
    out = capfd.readouterr().out
    table = [line for line in out.splitlines() if line.startswith(("bare loop", "engine"))]
    measured = [line[24:].split() for line in table]
    assert len(measured) == rows
    for images, milliseconds, *_ in measured:
        assert abs(float(images) * float(milliseconds) / 1000 - 4) < 0.1
    assert out.count(" alone ") == (3 if "--parts" in options else 0)
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+) at first", out)]
    assert len(losses) == rows
    assert all(abs(loss - math.log(200)) < 1 for loss in losses)
    assert out.count("0 of 4 not finite, 0 updates skipped") == rows


def test_a_model_that_fails_costs_no_other(monkeypatch):
    started = []

    def fail_first(command, **_):
        started.append(command[-1])
        return subprocess.CompletedProcess(command, returncode=int(len(started) == 1))

    monkeypatch.setattr(stage2.subprocess, "run", fail_first)
    assert stage2.main([*TOY, "--only", "opt-fp16", "t5-bf16"]) == 1
    assert started == ["opt-fp16", "t5-bf16"]


def test_micro_batches_hold_every_row_once(tmp_path):
    case = stage2.CASES["opt-bf16"]
    config = stage2.configure(case, 4, True, tmp_path)
    model = stage2.build_objective(config, Ranks()).model
    (batch,) = stage2.batches(config, case, model, 1)
    parts = stage2.cut(batch, 2)
    assert [part.valid.shape[0] for part in parts] == [2, 2]
    assert torch.equal(torch.cat([part.input_ids for part in parts]), batch.input_ids)
