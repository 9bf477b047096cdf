"""Speed and memory of a stage-two step at full size: `python -m benchmarks.stage2`.

EVA ViT-g/14, Q-Former with 32 queries, and a frozen language model of a preset's shape, random weights, pictures and
ids; no row is padded. The floor is the arithmetic a step must do (`vglm_train.model.flops`) at the rate of a large
bf16 product measured in the same process. Every model has a process of its own, so that it has its own memory and its
failure stops no other; the exit status is 1 if any failed. Run it where the project's `configs/` is found.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.rates import product_rate
from benchmarks.stage1 import HEADER, Step, measure, profile
from benchmarks.stage2_cases import CASES, ROOT, USUAL, Case, configure
from vglm_train import distributed, stages
from vglm_train.batch import IGNORED, PromptBatch, target_places
from vglm_train.config.run import Config
from vglm_train.distributed import Ranks
from vglm_train.engine.deepspeed_engine import DeepSpeedEngine
from vglm_train.model.flops import generation_cost, vision_flops
from vglm_train.model.visual_language import VisualLanguageModel
from vglm_train.objective.cross_entropy import token_losses
from vglm_train.objective.generation import GenerationObjective

LR = 1e-4
PARTS = ("image encoder", "Q-Former", "language model")


class Journal:
    """Losses and skipped steps of one variant. Recording them does not wait for the device."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.skipped = 0

    def line(self, vocabulary: int) -> str:
        losses = torch.stack(self.losses).tolist()
        broken = sum(not math.isfinite(loss) for loss in losses)
        return (
            f"    loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last (an even guess costs "
            f"{math.log(vocabulary):.3f}), {broken} of {len(losses)} not finite, {self.skipped} updates skipped"
        )


def build_objective(config: Config, ranks: Ranks) -> GenerationObjective:
    """The stage's own model and loss, made on the device in its own precision."""
    stage = stages.build(config)
    torch.manual_seed(0)
    with ranks.device:
        model = stage.model()
    assert isinstance(model, VisualLanguageModel)
    scale_head(model)
    objective = stage.objective(model, ranks)
    assert isinstance(objective, GenerationObjective)
    return objective.train()


@torch.no_grad()
def scale_head(model: VisualLanguageModel) -> None:
    """T5 initialises a head of its own with deviation 1, whose logits would be of the order of the width's root."""
    hugging_face = getattr(model.language, "model", None)
    if hugging_face is not None and hugging_face.config.is_encoder_decoder:
        head = hugging_face.get_output_embeddings().weight
        head.mul_(head.shape[1] ** -0.5)


def step_flops(config: Config, model: VisualLanguageModel, batch: PromptBatch) -> dict[str, float]:
    """Of each part in one step. An encoder runs on its own tokens, a decoder on the answer's, the head on targets."""
    rows, cost = batch.valid.shape[0], generation_cost(config.model, model)
    image, visual = rows * vision_flops(config.model.vision), {"visual": rows * model.image_length}
    tokens = {"sequence": batch.input_ids.numel(), "answer": batch.labels.numel()}
    tokens["target"] = int(batch.labels.ne(IGNORED).sum())
    return dict(zip(PARTS, (image, cost.of(0, visual) - image, cost.of(0, tokens)), strict=True))


def batches(config: Config, case: Case, model: VisualLanguageModel, number: int) -> list[PromptBatch]:
    """Random pictures and ids, on the device: the loader is not what is measured."""
    device, rows, q = model.mean.device, config.data.global_batch, model.image_length
    generator = torch.Generator(device).manual_seed(1)
    apart = config.model.language is not None and config.model.language.family == "seq2seq"
    before = q + case.prompt
    words = min(100_000, model.language.vocabulary - 10)
    size, made = config.model.vision.image_size, []
    for index in range(number):
        ids = torch.randint(5, words, (rows, before + case.answer), device=device, generator=generator)
        labels = ids.clone()
        labels[:, :before] = IGNORED
        if (sop := getattr(model.language, "sop_id", None)) is not None:
            ids[:, before] = labels[:, before] = sop
        if apart:
            ids, labels = ids[:, :before].contiguous(), labels[:, before:].contiguous()
        shape = (rows, 3, size, size)
        made.append(
            PromptBatch(
                pixels=torch.randint(0, 256, shape, dtype=torch.uint8, device=device, generator=generator),
                valid=torch.ones(rows, dtype=torch.bool, device=device),
                first_row=index * rows,
                input_ids=ids,
                attention_mask=torch.ones_like(ids, dtype=torch.bool),
                visual_mask=(torch.arange(ids.shape[1], device=device) < q).expand_as(ids).contiguous(),
                labels=labels,
                targets=target_places(labels, apart),
            )
        )
    return made


def bare_step(objective: GenerationObjective, device: torch.device, journal: Journal) -> Step:
    """The plain loop: bf16 autocast and torch's fused AdamW, no engine, no clipping."""
    parameters = [parameter for _, parameter in objective.model.trained_parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.05, fused=device.type == "cuda")

    def step(batch: PromptBatch) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = objective(batch).sums["lm"] / objective.units(batch)["lm"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        journal.losses.append(loss.detach())

    return step


def engine_step(objective: GenerationObjective, engine: DeepSpeedEngine, journal: Journal) -> Step:
    """What train.py runs: DeepSpeed with ZeRO 1, gradients clipped, and no update where they are not finite."""

    def step(batch: PromptBatch) -> None:
        count = objective.units(batch)["lm"]
        parts = cut(batch, batch.valid.shape[0] // engine.accumulation)
        outputs, update = engine.step(parts, lambda: [{"lm": 1 / count}] * len(parts), LR)
        journal.losses.append(torch.stack([output.sums["lm"] for output in outputs]).sum() / count)
        journal.skipped += not update.applied

    return step


def set_up(model: VisualLanguageModel, recompute: bool, graphs: bool | None) -> None:
    """As train.py does with `engine.graphs`, but for true beside recompute, which it refuses."""
    model.recompute(recompute)
    model.qformer.graphs = None
    if graphs is False:
        model.record_nothing()
    elif graphs and model.mean.is_cuda and not recompute:
        model.graph_passes()


def part_steps(objective: GenerationObjective, first: PromptBatch) -> dict[str, Step]:
    """The parts of a step alone, forward and backward where there is one."""
    model, device = objective.model, first.pixels.device.type
    features = model.encode_image(first.pixels)
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        visual = model.visual_tokens(features)
    visual.requires_grad_()

    def image(batch: PromptBatch) -> None:
        model.encode_image(batch.pixels)

    def bridge(_: PromptBatch) -> None:
        with torch.autocast(device, torch.bfloat16):
            tokens = model.visual_tokens(features)
        tokens.float().sum().backward()

    def language(batch: PromptBatch) -> None:
        with torch.autocast(device, torch.bfloat16):
            logits, targets = model.language.score(model.fuse(visual, batch), batch)
        token_losses(logits, targets).mean().backward()

    return dict(zip(PARTS, (image, bridge, language), strict=True))


def cut(batch: PromptBatch, rows: int) -> list[PromptBatch]:
    """Micro-batches of `rows` rows."""
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    del values["targets"]  # it has no rows
    apart = batch.labels.shape != batch.input_ids.shape
    tensors = {name: value.split(rows) for name, value in values.items() if isinstance(value, Tensor)}
    parts = [replace(batch, **dict(zip(tensors, part))) for part in zip(*tensors.values())]
    return parts if len(parts) == 1 else [replace(part, targets=target_places(part.labels, apart)) for part in parts]


def run_case(name: str, arguments: argparse.Namespace) -> None:
    """Build one model and measure its variants; prints as it goes."""
    ranks, case = distributed.start(), CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        config = configure(case, arguments.batch, arguments.tiny, Path(folder))
        objective = build_objective(config, ranks)
    device, model = ranks.device, objective.model
    if arguments.compile:
        model.compile_blocks()
    data = batches(config, case, model, 4)
    rate, flops = product_rate(device), step_flops(config, model, data[0])
    whole, (rows, tokens) = sum(flops.values()), data[0].input_ids.shape
    targets = int(data[0].labels.ne(IGNORED).sum())
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"\n{name}: {rows} rows of {tokens} tokens, {targets} targets; {case.others}")
    print(f"{card}, torch {torch.__version__}, {rate / 1e12:.0f} TFLOP/s in bf16 products", end=", ")
    print(f"{whole / rows / 1e9:.0f} GFLOP an image\n{HEADER}", flush=True)

    def report(label: str, step: Step, journal: Journal) -> None:
        print(measure(label, step, data, arguments.steps, whole / rate).row())
        print(journal.line(model.language.vocabulary), flush=True)
        if arguments.profile:
            print(profile(step, data[0]), flush=True)

    set_up(model, False, arguments.graphs)
    for part, step in part_steps(objective, data[0]).items() if arguments.parts else ():
        print(measure(f"{part} alone", step, data, arguments.steps, flops[part] / rate).row(), flush=True)
    model.zero_grad()
    if not arguments.no_bare:
        report("bare loop", bare_step(objective, device, journal := Journal()), journal)
    engine = DeepSpeedEngine(objective, config, rows // (arguments.micro or rows), ranks)
    for recompute in [False, True] if case.recompute else [False]:
        set_up(model, recompute, arguments.graphs)
        label = "engine, recompute" if recompute else "engine, ZeRO 1"
        report(label, engine_step(objective, engine, journal := Journal()), journal)
    distributed.stop()


def main(argv: Sequence[str]) -> int:
    """Run the chosen cases, each in a process of its own; returns 1 if any failed."""
    arguments = parse(argv)
    if arguments.single:
        run_case(arguments.single, arguments)
        return 0
    environment = {**os.environ, **({"DS_ACCELERATOR": "cpu"} if arguments.cpu else {})}
    failed = []
    for name in arguments.only:
        command = [sys.executable, "-m", "benchmarks.stage2", *argv, "--single", name]
        if subprocess.run(command, check=False, env=environment, cwd=ROOT).returncode:
            failed.append(name)
            print(f"{name}: failed", flush=True)
    return 1 if failed else 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=USUAL, help="models to measure")
    parser.add_argument("--batch", type=int, help="rows a step; none: the model's own")
    parser.add_argument("--micro", type=int, help="rows the engine runs at once; none: all")
    parser.add_argument("--steps", type=int, default=8, help="steps measured")
    parser.add_argument("--parts", action="store_true", help="also measure the parts of a step alone")
    parser.add_argument("--compile", action="store_true", help="torch.compile, as engine.compile")
    parser.add_argument("--graphs", action=argparse.BooleanOptionalAction, help="engine.graphs; none: null")
    parser.add_argument("--no-bare", action="store_true", help="leave out the loop without an engine")
    parser.add_argument("--tiny", action="store_true", help="toy shapes, to try the script")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    parser.add_argument("--profile", action="store_true", help="print the longest kernels")
    parser.add_argument("--single", choices=list(CASES), help=argparse.SUPPRESS)  # one model, in this process
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
