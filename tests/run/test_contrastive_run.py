"""objective.itc.batch: a run's losses do not depend on how many processes share the rows, dropout and all."""

from pathlib import Path

import pytest

from run import runs
from run.test_elastic import NOISE
from run.test_stored_features import WHOLE

STEPS = 4
# AdamW's usual epsilon, 1e-8, would turn what rounding leaves of gradients that are zero into steps of full size
COMMON = (
    "objective.itc.batch=8", "data.global_batch=16", "engine.micro_batch=2", f"run.length={{steps: {STEPS}}}",
    "data.validation=[]", "evaluate.every=null", "optim.eps=1e-4",
)  # fmt: skip


@pytest.mark.parametrize("several", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_log_the_same_as_one(config: Path, tmp_path: Path, several: int) -> None:
    """Two groups of eight rows a step, in micro-batches of two: four, two or one of each group in a process.

    Four of them read stored features.
    """
    found = {}
    for processes in (1, several):
        folder, overrides = tmp_path / str(processes), (*COMMON, *WHOLE, "data.workers=0")
        if processes == 4:
            overrides = (*overrides, f"data.features={{folder: {tmp_path / 'features'}}}")
        if processes == 1:
            runs.finish_here(config, folder, *overrides)
        else:
            runs.finish(runs.start(runs.command(config, folder, processes, *overrides)))
        found[processes] = runs.rows(folder)
    assert runs.undescribed_metrics(tmp_path / "1") == []
    assert list(found[several]) == list(found[1]) == list(range(1, STEPS + 1))
    for step, row in found[1].items():
        names = [name for name in row if name.startswith("train/")]
        assert {"train/loss_itc", "train/itc_accuracy", "train/itm_accuracy", "train/grad_norm"} <= set(names)
        for name in names:
            assert found[several][step][name] == pytest.approx(row[name], rel=NOISE, abs=1e-6), (step, name)


def test_check_tells_what_is_compared(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs.finish_here(config, tmp_path / "run", *COMMON, "--check")
    words = capsys.readouterr().out
    line = next(line for line in words.splitlines() if line.startswith("memory a rank"))
    assert "of 8 rows that ITC compares embeddings " in line
    runs.finish_here(config, tmp_path / "run", *COMMON)
    capsys.readouterr()
    runs.finish_here(config, tmp_path / "run", *COMMON, "run.length={steps: 9}", "objective.itc.batch=16", "--check")
    words = capsys.readouterr().out
    assert "compared each image with 8 texts so far and will with 16" in words
    assert "Set objective.itc.batch=8" in words
