"""One rank of test_generation_ranks.py, with torchrun's environment variables: python spoken_ranks.py FOLDER."""

import os
import sys
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import tiny
import tiny_language
import torch
from safetensors.torch import save_file
from torch import Tensor

from vglm_train import distributed
from vglm_train.batch import IGNORED, PromptBatch
from vglm_train.config.batch_split import BatchSplit, split
from vglm_train.config.run import Config, Engine, Length, Objective, Optim, Run
from vglm_train.distributed import Ranks
from vglm_train.engine.deepspeed_engine import DeepSpeedEngine
from vglm_train.engine.progress import Plan, RunState
from vglm_train.engine.trainer import StepReport, Trainer
from vglm_train.engine.watch import Watch
from vglm_train.objective.generation import GenerationObjective

ROWS, MICRO = 8, 2  # of a step; of a forward. The third of three processes has none
CASES = [(zero, mean) for zero in (1, 2) for mean in ("global", "micro")]


def config(zero: int, mean: str) -> Config:
    """One step without clipping, so that a gradient can be read off Adam's first moment."""
    return tiny.config(
        run=Run(name="tiny", stage="generate", length=Length(steps=1)),
        model=tiny_language.CHATGLM,
        optim=Optim(lr=1e-3, warmup=Length(steps=0), clip=None),
        objective=Objective(mean=mean),
        engine=Engine(precision="fp32", backend="gloo", zero=zero, micro_batch=MICRO),
    )


class Stream:
    """A rank's micro-batches of the first step."""

    sources, languages = ("made",), ("en", "zh")

    def __init__(self, cut: BatchSplit, rank: int) -> None:
        self.cut, self.rank = cut, rank

    def batches(self, consumed: int) -> Generator[PromptBatch]:
        for part in range(self.cut.accumulation):
            rows = self.cut.rows(part, self.rank)
            yield with_empty_places(tiny_language.prompts(self.cut.micro, first=rows.start), len(rows))


def with_empty_places(batch: PromptBatch, rows: int) -> PromptBatch:
    """As the template makes them of no row: one picture, no text, no target."""
    for tensor in (batch.valid, batch.pixels):
        tensor[rows:] = 0
    batch.labels[rows:] = IGNORED
    batch.attention_mask[rows:] = batch.visual_mask[rows:]
    return batch


class Never:
    def requested(self) -> bool:
        return False


class Seen:
    """The last step's report."""

    report: StepReport
    doing = "looking"

    def after_step(self, report: StepReport) -> None:
        self.report = report


def step(ranks: Ranks, zero: int, mean: str) -> dict[str, Tensor]:
    """Loss and gradient of every trained weight as the engine has them, of the whole global batch."""
    own = config(zero, mean)
    objective = GenerationObjective(tiny_language.build(own.model))
    engine = DeepSpeedEngine(objective, own, split(own, ranks.world).accumulation, ranks)
    plan, seen = Plan.of(own, ROWS, ranks.world), Seen()
    watch = Watch(Path(), ranks, None)
    stream = Stream(plan.split, ranks.rank)
    Trainer(own, plan, RunState(), engine, objective, stream, Never(), ranks, watch).fit([seen])
    assert seen.report.update.applied
    total = sum(output.sums["lm"] for output in seen.report.outputs)
    units = sum(units["lm"] for units in seen.report.units)
    found = {"loss": ranks.all_sum(total.clone()) / ranks.all_sum(units.clone())}
    found["tokens"] = units.clone()  # of this rank
    for name, value in engine.state():
        if name.startswith("exp_avg/"):
            found[name.removeprefix("exp_avg/model.")] = value / (1 - own.optim.betas[0])
    return found


def reference(mean: str) -> dict[str, Tensor]:
    """The same by autograd alone: over the rows at once, or the mean of each micro-batch's mean."""
    model = tiny_language.build(tiny_language.CHATGLM)
    size = ROWS if mean == "global" else MICRO
    parts = [tiny_language.prompts(size, first=row) for row in range(0, ROWS, size)]
    for batch in parts:
        logits, targets = model.score(replace(batch))
        (torch.nn.functional.cross_entropy(logits, targets) / len(parts)).backward()
    return {name: parameter.grad for name, parameter in model.trained_parameters()}


if __name__ == "__main__":
    os.environ["DS_ACCELERATOR"] = "cpu"
    torch.set_num_threads(1)
    group = distributed.start("gloo")
    everything = {
        f"{zero}/{mean}/{name}": value.contiguous()
        for zero, mean in CASES
        for name, value in step(group, zero, mean).items()
    }
    save_file(everything, Path(sys.argv[1]) / f"{group.rank}.safetensors")
    distributed.stop()
