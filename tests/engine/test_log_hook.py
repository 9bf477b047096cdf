"""What a row says of speed, of steps that the real engine made: counted by torch and by a clock that the test holds."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

import pytest
import tiny
import tiny_language
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vglm_train import distributed
from vglm_train.batch import IGNORED, Batch, PromptBatch
from vglm_train.config.run import Captioning, Matching
from vglm_train.config.run import Objective as Losses
from vglm_train.config.tuning import Lora, Prefix, Rule, Tuning, VisionBlocks
from vglm_train.engine.deepspeed_engine import DeepSpeedEngine
from vglm_train.engine.hooks import Cadence, LogHook
from vglm_train.engine.progress import RunState
from vglm_train.engine.trainer import StepReport
from vglm_train.log.jsonl import Row
from vglm_train.log.meter import Meter
from vglm_train.log.throughput import Throughput
from vglm_train.model.flops import Cost, flops_per_pair, generation_cost
from vglm_train.model.tuning import apply_tuning
from vglm_train.model.visual_language import build_visual_language
from vglm_train.objective.alignment import AlignmentObjective
from vglm_train.objective.base import Objective
from vglm_train.objective.generation import GenerationObjective

PEAK, SECONDS, ROWS = 1e12, 2.0, 4
# so that the products of weights are nearly all of the arithmetic, as in models of real size
ALIGNED = replace(tiny.MODEL, qformer=replace(tiny.MODEL.qformer, width=128, mlp_width=256))
WIDE = replace(
    tiny_language.CHATGLM,
    vision=replace(tiny.MODEL.vision, width=512, depth=4, heads=4, mlp_width=1024),
    language=replace(tiny_language.CHATGLM.language, layers=6, width=192, heads=2, mlp_width=768),
)
FROZEN = (Rule(match="*", train=False),)
LORA = Lora(rank=8, layers=(2, 4))
TUNINGS = {
    "stage two": None,
    "lora": Tuning(rules=FROZEN, lora=LORA),
    "lora in four bits": Tuning(rules=FROZEN, lora=LORA, quantize="nf4"),
    "lora and Q-Former": Tuning(lora=LORA),
    "prefix": Tuning(rules=FROZEN, prefix=Prefix(length=2)),
    "projection": Tuning(rules=(Rule(match="projection.*"), *FROZEN)),
    "vision blocks": Tuning(rules=FROZEN, vision_blocks=VisionBlocks(last=2)),
    "everything": Tuning(rules=(Rule(match="vision.*", train=False), Rule(match="*"))),
}


class Kept:
    """A sink that keeps its rows."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def write(self, step: int, row: Row) -> None:
        self.rows.append(row)


def logged(objective: Objective, cost: Cost, batches: Sequence[Batch], recompute: bool = False) -> tuple[Row, float]:
    """One step of the engine as the hook logs it, on a device of PEAK that took SECONDS; and its counted FLOPs."""
    ranks = distributed.start("gloo")
    objective.model.recompute(recompute)
    engine = DeepSpeedEngine(objective.train(), tiny.config(), len(batches), ranks)
    units = [objective.units(batch) for batch in batches]
    scales = [{name: 1 / sum(u[name] for u in units).clamp(min=1) for name in units[0]}] * len(batches)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        outputs, update = engine.step(batches, lambda: scales, 1e-3)
    speed = Throughput(torch.device("cpu"), 1, cost.per_sample, cost.per_token, clock=count(100, SECONDS).__next__)
    speed._peak = PEAK  # a CPU has none
    kept, samples = Kept(), sum(len(batch.valid) for batch in batches)
    hook = LogHook(Meter(ranks), speed, [kept], Cadence(1, 100, None), RunState(), objective, samples)
    report = StepReport(
        step=1, epoch=0, outputs=outputs, units=units, update=update, lr=1e-3, wait_seconds=0.5, done=False,
        stopping=False, started=100 - SECONDS,
    )  # fmt: skip
    hook.after_step(report)
    return kept.rows[0], counter.get_total_flops()


def speaking(tuning: Tuning | None = None, seed: int = 0) -> GenerationObjective:
    torch.manual_seed(seed)
    quantize = tuning.quantize if tuning else None
    model = build_visual_language(WIDE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), tiny_language.SOP, quantize=quantize)
    if tuning:
        apply_tuning(model, tuning)
    return GenerationObjective(model)


def prompts() -> list[PromptBatch]:
    return [tiny_language.prompts(ROWS), tiny_language.prompts(ROWS, first=ROWS)]


@pytest.mark.parametrize("name", TUNINGS)
def test_mfu_is_the_arithmetic_of_the_step(name: str) -> None:
    objective = speaking(TUNINGS[name])
    row, counted = logged(objective, generation_cost(WIDE, objective.model), prompts())
    # the lowest block that trains is counted whole, scores of the language model's attention are not
    assert row["perf/mfu"] * PEAK * SECONDS == pytest.approx(counted, rel=0.06)


def test_recomputation_is_no_progress() -> None:
    objective = speaking()
    cost = generation_cost(WIDE, objective.model)
    plain, counted = logged(objective, cost, prompts())
    again, more = logged(speaking(), cost, prompts(), recompute=True)
    assert more > 1.2 * counted
    assert again["perf/mfu"] == plain["perf/mfu"]


def test_pictures_count_each_and_stored_ones_without_their_encoder() -> None:
    """A dialogue of two pictures in every row; then the same pictures from a store."""
    batch = two_pictures(tiny_language.prompts(ROWS))
    objective = speaking()
    row, counted = logged(objective, generation_cost(WIDE, objective.model), [batch])
    assert row["perf/mfu"] * PEAK * SECONDS == pytest.approx(counted, rel=0.06)
    stored = replace(batch, features=objective.model.encode_image(batch.pixels), pixels=torch.empty(0))
    row, fewer = logged(speaking(), generation_cost(WIDE, objective.model, encoder=False), [stored])
    assert row["perf/mfu"] * PEAK * SECONDS == pytest.approx(fewer, rel=0.06)
    assert fewer < 0.9 * counted


def two_pictures(batch: PromptBatch) -> PromptBatch:
    """Each row's picture twice, its tokens one after the other."""
    q = tiny_language.QUERIES

    def doubled(rows: torch.Tensor) -> torch.Tensor:
        return torch.cat((rows[:, : 1 + q], rows[:, 1:]), 1)

    names = ("input_ids", "attention_mask", "visual_mask", "labels")
    pixels = batch.pixels.repeat_interleave(2, 0)
    return replace(batch, pixels=pixels, **{name: doubled(getattr(batch, name)) for name in names})


@pytest.mark.parametrize("losses", [("itc", "itm", "itg"), ("itc", "itg"), ("itc", "itm"), ("itc",)])
def test_stage_one_counts_the_losses_it_computes(losses: tuple[str, ...]) -> None:
    config = Losses(itm=Matching(weight=float("itm" in losses)), itg=Captioning(weight=float("itg" in losses)))
    objective = AlignmentObjective(
        tiny.alignment(model=ALIGNED), config, distributed.start("gloo"), 42, dec_id=tiny.DEC
    )
    cost = Cost(flops_per_pair(ALIGNED, 56, losses))  # 50 words are decoded as 56
    damaged = tiny.batch(ROWS, ROWS)
    damaged.valid[1] = False
    row, counted = logged(objective, cost, [tiny.batch(0, ROWS), damaged])
    # what ITC compares is left out, and attention that a mask takes away
    assert row["perf/mfu"] * PEAK * SECONDS == pytest.approx(counted, rel=0.05)
    assert row["perf/samples_per_second"] == 2 * ROWS / SECONDS, "a damaged row was read and computed, too"
    assert ("perf/tokens_per_second" in row) == ("itg" in losses)


@pytest.mark.parametrize("finite", [True, False])
def test_a_row_by_hand(finite: bool) -> None:
    objective, batches = speaking(), prompts()
    if not finite:
        pixels = batches[1].pixels.float()
        pixels[2] = torch.nan
        batches[1] = replace(batches[1], pixels=pixels)
    row, _ = logged(objective, generation_cost(WIDE, objective.model), batches)
    targets = sum(int((batch.labels != IGNORED).sum()) for batch in batches)
    assert row["perf/samples_per_second"] == 2 * ROWS / SECONDS
    assert row["perf/tokens_per_second"] == targets / SECONDS
    assert row["perf/data_wait_fraction"] == 0.5 / SECONDS
    assert row["perf/mfu"] > 0
    assert all(name.startswith(("perf/", "train/", "data/")) for name in row)
    if not finite:
        assert not {"train/loss_lm", "train/loss", "train/lm_accuracy", "train/padding"} & set(row)
        return
    tokens = sum(batch.input_ids.numel() for batch in batches)
    real = sum(int(batch.attention_mask.sum()) for batch in batches)
    with torch.no_grad():
        losses = [float(speaking()(batch).sums["lm"]) for batch in batches]
    assert row["train/padding"] == pytest.approx(1 - real / tokens)
    assert row["train/loss"] == row["train/loss_lm"] == pytest.approx(sum(losses) / targets, rel=1e-5)
