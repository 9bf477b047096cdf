"""What a row of stage two says of speed: tokens, and MFU by the places that were really computed."""

import pytest
import tiny
import tiny_language
import torch

from vglm_train.distributed import Ranks
from vglm_train.engine.deepspeed_engine import Update
from vglm_train.engine.hooks import Cadence, LogHook
from vglm_train.engine.progress import RunState
from vglm_train.engine.trainer import StepReport
from vglm_train.log.jsonl import Row
from vglm_train.log.meter import Meter
from vglm_train.log.throughput import Throughput
from vglm_train.objective.generation import GenerationObjective

SAMPLE, PLACE, PEAK, SECONDS = 5e9, 3e8, 1e12, 2.0


class Kept:
    """A sink that keeps its rows."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def write(self, step: int, row: Row) -> None:
        self.rows.append(row)


@pytest.mark.parametrize("applied", [True, False])
def test_tokens_places_and_mfu(applied: bool) -> None:
    objective = GenerationObjective(tiny_language.build(tiny_language.CHATGLM))
    batches = [tiny_language.prompts(4), tiny_language.prompts(4, first=4)]
    with torch.no_grad():
        outputs = [objective(batch) for batch in batches]
    units = [objective.units(batch) for batch in batches]
    times = iter([0.0, SECONDS, SECONDS])
    speed = Throughput(torch.device("cpu"), 1, SAMPLE, {"sequence": PLACE}, clock=lambda: next(times))
    speed._peak = PEAK  # a CPU has none
    kept, cadence = Kept(), Cadence(log=1, save=100, evaluate=None)
    hook = LogHook(Meter(Ranks()), speed, [kept], cadence, RunState(), objective, samples_per_step=8)
    report = StepReport(
        step=1, epoch=0, outputs=outputs, units=units, update=Update(applied, 1.5), lr=tiny.config().optim.lr,
        wait_seconds=0.5, done=False, stopping=False,
    )  # fmt: skip
    hook.after_step(report)
    (row,) = kept.rows
    assert row["perf/samples_per_second"] == 8 / SECONDS
    assert row["perf/data_wait_fraction"] == 0.25
    assert all(name.startswith(("perf/", "train/", "data/")) for name in row)
    if not applied:
        assert not {"train/loss_lm", "train/loss", "train/lm_accuracy", "train/padding"} & set(row)
        return
    places = sum(batch.input_ids.numel() for batch in batches)
    real = sum(int(batch.attention_mask.sum()) for batch in batches)
    tokens = sum(float(unit["lm"]) for unit in units)
    assert row["perf/tokens_per_second"] == tokens / SECONDS
    assert row["perf/mfu"] == pytest.approx((8 * SAMPLE + places * PLACE) / SECONDS / PEAK)
    assert row["train/padding"] == pytest.approx(1 - real / places)
    assert 0 < row["train/padding"] < 1
    assert row["train/loss_lm"] == row["train/loss"]
    assert row["train/loss_lm"] == pytest.approx(sum(float(o.sums["lm"]) for o in outputs) / tokens, rel=1e-6)
