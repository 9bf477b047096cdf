"""Whole runs whose frozen blocks are divided or lie in the machine's memory: every number and every byte of the result
is that of the plain run."""

import os
import signal
from pathlib import Path

import pytest
import torch
import yaml

from run import runs
from vglm_train import stages
from vglm_train.config.load import load
from vglm_train.describe import estimate_memory

SHORT = ("run.length={steps: 6}", "optim.warmup={steps: 2}", "evaluate.every=3", "checkpoint.every=2",
         "engine.micro_batch=2", "data.workers=0", "model.vision.depth=2")  # fmt: skip
OTHERS = ("causal", "seq2seq")
NOISE = 2e-4  # relative: sums of fp32 in another order


def result(folder: Path) -> tuple[list[tuple], dict[str, bytes]]:
    """What it logged, and the files of its bundle but for those that hold the configuration."""
    bundle = folder / "bundle"
    return runs.losses(folder), {file.name: file.read_bytes() for file in bundle.glob("*.safetensors")}


@pytest.fixture(scope="module", autouse=True)
def no_java(tmp_path_factory: pytest.TempPathFactory):
    """METEOR's program takes 15 s to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path_factory.mktemp("nothing")))
        yield


@pytest.mark.parametrize("family", ["chatglm", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_stage_two_by_two_processes(speaking_config: dict[str, Path], tmp_path: Path, family: str) -> None:
    """With evaluations, where each process generates answers of its own lengths."""
    found = []
    for zero, recompute in ((1, "false"), (3, "true")):
        folder = tmp_path / f"zero{zero}"
        words = (*SHORT, "model.vision.depth=1", f"engine.zero={zero}", f"engine.recompute={recompute}")
        said = runs.finish(runs.start(runs.command(speaking_config[family], folder, 2, *words)))
        assert ("frozen blocks" in said) == (zero == 3)
        found.append(result(folder))
    (plain, files), (divided, others) = found
    assert any(name.startswith("eval/") for _, name, _ in plain)
    assert divided == plain
    assert others == files
    assert {"trained.safetensors", "language.safetensors"} <= set(files)


@pytest.mark.slow
def test_stage_one_by_two_processes(config: Path, tmp_path: Path) -> None:
    found = []
    for zero in (1, 3):
        runs.finish(runs.start(runs.command(config, tmp_path / str(zero), 2, *SHORT, f"engine.zero={zero}")))
        found.append(result(tmp_path / str(zero)))
    assert found[0] == found[1]
    assert "vision.safetensors" in found[0][1]


def test_fine_tuning_by_two_processes(speaking_config: dict[str, Path], tmp_path: Path) -> None:
    """Adapters train in blocks of four bits that are divided; the image encoder's last block trains whole."""
    stage, base = stages.build(load(speaking_config["chatglm"])), tmp_path / "base"
    torch.manual_seed(1)
    model = stage.model()
    stage.load(model)
    stage.save(base, model, {"run": "made"})
    document = yaml.safe_load(speaking_config["chatglm"].read_text())
    document["run"] |= {"stage": "finetune", "name": "tuned"}
    document["model"] = {"bundle": str(base)}
    document["tuning"] = {"lora": {"rank": 2, "alpha": 8}, "quantize": "nf4", "vision_blocks": {"last": 1}}
    config = tmp_path / "tuned.yaml"
    config.write_text(yaml.safe_dump(document, allow_unicode=True))
    found = []
    for zero in (1, 3):
        words = (*SHORT[:-1], "run.length={steps: 3}", "evaluate.every=null")
        runs.finish(runs.start(runs.command(config, tmp_path / str(zero), 2, *words, f"engine.zero={zero}")))
        found.append(result(tmp_path / str(zero)))
    assert found[0] == found[1]
    assert found[0][1]


def test_offload_alone(speaking_config: dict[str, Path], tmp_path: Path) -> None:
    found = []
    for place in ("none", "cpu"):
        words = (*SHORT, "model.vision.depth=1", f"engine.offload={place}")
        runs.finish_here(speaking_config["chatglm"], tmp_path / place, *words)
        found.append(result(tmp_path / place))
    assert found[0] == found[1]


def test_killed_and_continued_with_two_processes_and_with_one(speaking_config: dict[str, Path], tmp_path: Path) -> None:
    """The same trained weights and losses as of one process that nobody disturbed, within rounding."""
    words = ("run.length={steps: 12}", "checkpoint.every=2", "evaluate.every=null", "data.validation=[]",
             "engine.zero=3", "model.qformer.dropout=0", "optim.eps=1e-4", "optim.lr=1e-3",
             "data.workers=0")  # fmt: skip
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    runs.finish_here(speaking_config["chatglm"], straight, *words)
    for processes, until in ((1, 3), (2, 7), (1, None)):
        process = runs.start(runs.command(speaking_config["chatglm"], broken, processes, *words))
        if until is None:
            runs.finish(process)
        elif processes == 2:
            runs.wait_for(broken, until)
            runs.kill(process)
        else:
            runs.wait_for(broken, until)
            os.killpg(process.pid, signal.SIGTERM)
            process.communicate(timeout=120)
    whole, parts = runs.rows(straight), runs.rows(broken)
    assert list(whole) == list(parts) == list(range(1, 13))
    for step, row in whole.items():
        for name in ("train/loss", "train/grad_norm"):
            assert parts[step][name] == pytest.approx(row[name], rel=NOISE), (step, name)


def test_check_tells_the_memory(speaking_config: dict[str, Path], tmp_path: Path) -> None:
    """Half of the blocks on each of two cards, or none on one, beside the two that run."""
    needs = {}
    for name, world, words in (
        ("whole", 2, ()), ("divided", 2, ("engine.zero=3",)), ("offloaded", 1, ("engine.offload=cpu",)),
        ("both", 2, ("engine.zero=3", "engine.offload=cpu")),
    ):  # fmt: skip
        config = load(speaking_config["causal"], ["model.vision.depth=1", f"run.folder={tmp_path}", *words])
        stage = stages.build(config)
        with torch.device("meta"):
            model = stage.model()
        needs[name] = estimate_memory(config, stage, model, world)
    blocks = [sum(4 * p.numel() for p in block.parameters()) for stack in model.stacks() for block in stack]
    outside, running = needs["whole"].frozen - sum(blocks), sum(sorted(blocks)[-2:])
    assert needs["divided"].frozen == outside + sum(blocks) / 2 + running
    assert needs["offloaded"].frozen == needs["both"].frozen == outside + running
    assert [need.offloaded for need in needs.values()] == [0, 0, sum(blocks), sum(blocks) / 2]
    assert needs["whole"].built == 0
    assert needs["divided"].built >= sum(blocks) + outside
