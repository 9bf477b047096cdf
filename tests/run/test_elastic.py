"""A run goes on with another number of processes and workers: the same samples, the same weights, the same losses."""

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from made_shards import write_source
from safetensors.torch import load_file

from run import runs

STEPS = 12
NOISE = 2e-4  # relative: sums of fp32 in another order, through twelve updates. No dropout, whose masks go by rank
# AdamW's usual epsilon, 1e-8, would turn what rounding leaves of gradients that are zero into steps of full size
STILL = ("model.qformer.dropout=0", "optim.eps=1e-4")
ALONE = ("engine.micro_batch=4", "data.workers=0")
PAIR = ("engine.micro_batch=2", "data.workers=3")  # four rows at once, as alone: negatives stay the same


def mixture(folder: Path, zero: int) -> tuple[str, ...]:
    """Overrides: a second source of one shard and five samples, fewer than workers want; no evaluation."""
    second = write_source(folder / "second", [5], captions={"en": 10, "zh": 5})
    return (
        f"data.train.1={{name: second, shards: {second}, weight: 1}}", "data.train.0.weight=3",
        f"run.length={{steps: {STEPS}}}", "data.validation=[]", "evaluate.every=null", "checkpoint.every=4",
        f"engine.zero={zero}", "checkpoint.keep=9", *STILL,
    )  # fmt: skip


def go(config: Path, folder: Path, processes: int, *overrides: str, until: int | None = None) -> None:
    """Run to the end, or ask it to stop once step `until` is logged."""
    process = runs.start(runs.command(config, folder, processes, *overrides))
    if until is not None:
        runs.wait_for(folder, until)
        os.killpg(process.pid, signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
        assert "the same command continues" in output, output
    else:
        runs.finish(process)


@pytest.mark.parametrize(
    ("zero", "first", "then"),
    [(2, (1, ALONE), (2, PAIR)), pytest.param(1, (2, PAIR), (1, ALONE), marks=pytest.mark.slow)],
)
def test_goes_on_with_another_number_of_processes(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], zero: int, first, then
) -> None:
    common = mixture(tmp_path, zero)
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    runs.finish_here(config, straight, *common, *ALONE)
    go(config, broken, first[0], *common, *first[1], until=3)
    go(config, broken, then[0], *common, *then[1])
    assert runs.undescribed_metrics(straight) == []
    whole, parts = runs.train_rows(straight), runs.train_rows(broken)
    assert list(parts) == list(whole) == list(range(1, STEPS + 1))
    for step, row in whole.items():
        for name in ("train/loss", "train/loss_itc", "train/loss_itm", "train/loss_itg", "train/grad_norm"):
            assert parts[step][name] == pytest.approx(row[name], rel=NOISE), (step, name)
        for name in ("data/samples", "data/share_made", "data/share_second", "data/share_en", "data/share_zh"):
            assert parts[step][name] == row[name], (step, name)
    state = json.loads((broken / "checkpoints" / f"step-{STEPS:08d}" / "state.json").read_text())
    assert state["samples"] == STEPS * 8
    assert Counter(state["drawn"])["second"] == STEPS * 2
    words = []
    for rows_at_once in (4, 8):
        runs.finish_here(config, broken, *common, f"engine.micro_batch={rows_at_once}", "--check")
        words.append(capsys.readouterr().out)
    assert "will shift" not in words[0]
    assert "compared each image with 4 texts so far and will with 8: its loss, and ITM's, will shift" in words[1]
    assert "share: 75.00 % made: 100 samples, each read 0.72 times" in words[1]


def test_a_world_that_does_not_divide_the_batch(config: Path, tmp_path: Path) -> None:
    """Three processes have 3, 3 and 2 of 8 rows; all rows run at once, so negatives stay the same."""
    common = mixture(tmp_path, zero=1)
    runs.finish_here(config, tmp_path / "alone", *common, "data.workers=0")
    go(config, tmp_path / "three", 3, *common, "data.workers=1")
    alone, three = runs.train_rows(tmp_path / "alone"), runs.train_rows(tmp_path / "three")
    assert list(three) == list(alone) == list(range(1, STEPS + 1))
    for step, row in alone.items():
        for name in ("train/loss_itc", "train/loss_itm", "train/loss_itg", "train/itc_accuracy", "train/grad_norm"):
            assert three[step][name] == pytest.approx(row[name], rel=NOISE), (step, name)
        for name in ("data/samples", "data/damaged", "data/share_second", "data/share_zh"):
            assert three[step][name] == row[name], (step, name)


EPOCHS = (
    "run.length={steps: 25}", "checkpoint.every=4", "data.validation=[]", "evaluate.every=null", "engine.zero=2",
    "log.samples=true", *STILL,
)  # fmt: skip
THREE_WORKERS = ("engine.micro_batch=4", "data.workers=3")


@pytest.fixture(scope="module")
def unbroken(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs of 100 samples by one process that nobody stopped."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    runs.finish_here(config, folder, *EPOCHS, *ALONE)
    return folder


@pytest.mark.parametrize(
    ("first", "then"),
    [((2, PAIR), (1, THREE_WORKERS)), pytest.param((1, THREE_WORKERS), (2, PAIR), marks=pytest.mark.slow)],
)
def test_killed_and_continued_reads_every_sample_of_an_epoch_once(
    config: Path, unbroken: Path, tmp_path: Path, first, then
) -> None:
    """kill -9 in the second epoch, at a step that was not saved: what was read after the checkpoint is read again, and
    counts once."""
    folder = tmp_path / "run"
    process = runs.start(runs.command(config, folder, first[0], *EPOCHS, *first[1]))
    runs.wait_for(folder, 14)
    runs.kill(process)
    read = runs.consumed(folder)
    assert 14 <= max(read) < 25
    go(config, folder, then[0], *EPOCHS, *then[1])
    whole, parts = runs.consumed(unbroken), runs.consumed(folder)
    assert list(parts) == list(range(1, 26))
    assert parts == whole
    keys = [key for step in parts.values() for key in step]
    assert set(Counter(keys).values()) == {2}
    assert len(set(keys)) == 100
    assert keys[0].startswith("made/shard-00000")
    losses = runs.train_rows(unbroken)
    for step, row in runs.train_rows(folder).items():
        for name in ("train/loss", "train/loss_itc", "train/loss_itm", "train/loss_itg", "train/grad_norm"):
            assert row[name] == pytest.approx(losses[step][name], rel=NOISE), (step, name)


@pytest.mark.slow
def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    """Weights and both moments, bit for bit, from one process to two and from two to one, at ZeRO 1 and 2."""
    folders = [tmp_path / str(number) for number in range(3)]
    for folder, source, processes in zip(folders, ("new", *folders), (1, 2, 1), strict=False):
        folder.mkdir()
        _load_and_save(processes, source, folder)
    for zero in (1, 2):
        first = load_file(folders[0] / f"{zero}.safetensors")
        assert first["adam_step"].item() == 2
        for folder in folders[1:]:
            found = load_file(folder / f"{zero}.safetensors")
            assert found.keys() == first.keys()
            assert all(torch.equal(found[name], first[name]) for name in first)


def _load_and_save(processes: int, source: object, target: Path) -> None:
    script = str(runs.ROOT / "tests" / "run" / "load_and_save.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    found = runs.python_path(runs.ROOT, runs.ROOT / "tests")
    runs.finish(runs.start([*launcher, script, str(source), str(target)], PYTHONPATH=found))
