"""The fine-tuning benchmark runs, at toy sizes; its arithmetic and its passes over a table are what they say."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import finetune
from benchmarks.finetune_cases import CASES, MICRO, PARTS, Table, step_flops, tuning_of
from benchmarks.stage2 import batches
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    items = [{"img": "a.png", "prompt": "what is it?", "label": "a lung " * (1 + n % 9)} for n in range(64 * 4 + 3)]
    path = tmp_path / "items.json"
    path.write_text(json.dumps(items))
    return path


def built(name: str):
    config, tuning = CASES[name].configure(True), tuning_of(name, True)
    return config, tuning, finetune.build_objective(config, tuning, Ranks(), None)


def run(*options: str) -> str:
    command = [sys.executable, "-m", "benchmarks.finetune", "--tiny", "--cpu", "--steps", "2", *options]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+) at first", done.stdout)]
    assert losses
    assert all(abs(loss - math.log(4000)) < 0.5 for loss in losses)
    assert done.stdout.count("0 updates skipped") == done.stdout.count(" 0 of ") == len(losses)
    return done.stdout


def test_a_toy_size_on_the_cpu():
    out = run("--single", "lora")
    measured = re.findall(r"^with(?:out)? recompute +([\d.]+) +([\d.]+)", out, re.MULTILINE)
    assert len(measured) == 2
    assert all(abs(float(rate) * float(ms) / 1000 - CASES["lora"].rows) < 0.1 for rate, ms in measured)
    assert out.count("target 58 samples/s") == 1


def test_a_toy_size_on_the_lengths_of_a_table(table):
    table.write_text(json.dumps(json.loads(table.read_text())[:70]))
    out = run("--single", "lora-table", "--table", str(table))
    padding = [int(share) for share in re.findall(r" 4 batches, (\d+) % padding", out)]
    assert len(padding) == 3
    assert padding[0] > padding[1] == padding[2]
    assert out.count("window 4: left out, too few items") == 1
    assert out.count("target 135 samples/s") == 1


def test_without_a_table_its_case_is_left_out(capsys):
    assert finetune.main(["--only", "lora-table"]) == 0
    assert "left out" in capsys.readouterr().out


def test_a_pass_over_a_table_holds_every_item_once(table):
    read, config = Table(table), CASES["lora-table"].configure(True)
    rows = read.rows(config)
    passes = {window: read.steps(config, rows, window, torch.device("cpu")) for window in (0, 1, 4)}
    ids, padded = {}, {}
    for window, steps in passes.items():
        assert [len(step) for step in steps] == [PARTS] * 4
        assert all(part.input_ids.shape[0] == MICRO for step in steps for part in step)
        parts = [part for step in steps for part in step]
        ids[window] = sorted(
            row[mask].tolist() for part in parts for row, mask in zip(part.input_ids, part.attention_mask)
        )
        padded[window] = sum(int((~part.attention_mask).sum()) for part in parts)
        assert all(part.attention_mask[:, -1].any() for part in parts)
    assert ids[0] == ids[1] == ids[4]
    assert padded[4] < padded[1] < padded[0]


def test_a_table_of_another_layout(tmp_path):
    path = tmp_path / "items.json"
    path.write_text('[{"question": "?"}]')
    with pytest.raises(UserError, match="prompt and label"):
        Table(path)


def test_the_floor_counts_what_a_step_does():
    """Against torch's own count of a real step's products."""
    from torch.utils.flop_counter import FlopCounterMode

    config, _, objective = built("lora-4")
    (batch,) = batches(config, CASES["lora-4"].case(True), objective.model, 1)
    with FlopCounterMode(display=False) as counter, torch.autocast("cpu", torch.bfloat16):
        objective(batch).sums["lm"].backward()
    counted, floor = counter.get_total_flops(), step_flops(config, objective.model, batch)
    assert floor < counted < 1.5 * floor


@pytest.mark.parametrize("name", ["lora-4", "qlora-4"])
def test_below_the_lowest_adapter_nothing_is_kept_for_backward(name):
    config, tuning = CASES[name].configure(True), tuning_of(name, True)
    tuning = replace(tuning, lora=replace(tuning.lora, layers=(1,)))
    objective = finetune.build_objective(config, tuning, Ranks(), None)
    model = objective.model
    (batch,) = batches(config, CASES[name].case(True), model, 1)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        visual = model.visual_tokens(model.encode_image(batch.pixels))
        embeds = model.fuse(visual, batch)
        assert not kept
        lower = model.language.blocks()[0]
        seen = {}
        last = lower.get_submodule("mlp.dense_4h_to_h")
        last.register_forward_hook(lambda *given: seen.update(lower=len(kept), graph=given[2].requires_grad))
        model.language.score(embeds, batch)
    assert not visual.requires_grad
    assert not embeds.requires_grad
    assert seen == {"lower": 0, "graph": False}
    assert kept
