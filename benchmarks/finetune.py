"""Speed and memory of fine-tuning at full size: `python -m benchmarks.finetune --table train.json`.

EVA ViT-g/14, Q-Former with 32 queries, ChatGLM-6B's shape, frozen towers in fp16, random weights; every step is the
engine's at ZeRO 1.

lora            low-rank updates of blocks 0 and 14 (rank 10, query_key_value and dense), 16 rows of 320 tokens.
lora-table      the same on the lengths of a table's items, 4 micro-batches of 16 rows a step, each padded to its own
                longest row. Window 0: in random order; 1: the 64 rows of a step sorted, as stage finetune does (no
                gradient notices); 4: four steps' rows sorted. Ids are a small tokenizer's, learned from the table.
lora-4, qlora-4, prefix-4, qformer-lora-4    memory at 4 rows of 320 tokens; qlora: blocks in four bits; prefix: four
                tokens in every block; qformer: with the Q-Former, its norm and the projection.

The floor counts as `benchmarks.finetune_cases.step_flops` says, at the rate of a large bf16 product in the same
process. Every case has a process of its own; the exit status is 1 if any failed. A missed target is only
reported.
"""

import argparse
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import vglm_train.model.language.glm.chatglm  # noqa: F401  (before the clock of building starts)
from benchmarks.finetune_cases import CASES, MICRO, PARTS, Table, TunedModel, step_flops, tuning_of
from benchmarks.rates import product_rate, wait
from benchmarks.record import record
from benchmarks.stage1 import HEADER, Result, measure
from benchmarks.stage2 import LR, Journal, batches, engine_step, set_up
from benchmarks.stage2_cases import ROOT
from vglm_train import distributed
from vglm_train.batch import IGNORED, PromptBatch
from vglm_train.config.run import Config
from vglm_train.config.tuning import Tuning
from vglm_train.distributed import Ranks
from vglm_train.engine.deepspeed_engine import DeepSpeedEngine
from vglm_train.model.tuning import apply_tuning
from vglm_train.model.visual_language import build_visual_language
from vglm_train.objective.generation import GenerationObjective

OTHERS = (
    "VisualGLM's own script on such a card: 45 samples/s in 70 GiB, with recompute 32 in 26 (16 rows of 320 tokens)"
)
WINDOWS = (0, 1, 1, 4)  # the second pass of window 1 finds every shape's kernels chosen


def build_objective(config: Config, tuning: Tuning, ranks: Ranks, sop_id: int | None) -> GenerationObjective:
    """What stage finetune builds, made on the device."""
    image = config.data.image
    torch.manual_seed(0)
    with ranks.device:
        model = build_visual_language(config.model, image.mean, image.std, sop_id, None, tuning.quantize)
    apply_tuning(model, tuning)
    return GenerationObjective(model).train()


def gib(device: torch.device) -> tuple[float, float]:
    """Allocated now, and the most since the last reset."""
    if device.type != "cuda":
        return math.nan, math.nan
    return torch.cuda.memory_allocated(device) / 2**30, torch.cuda.max_memory_allocated(device) / 2**30


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def run_case(name: str, arguments: argparse.Namespace) -> None:
    """Build one model and measure it; prints as it goes."""
    ranks, case, tiny = distributed.start(), CASES[name], arguments.tiny
    device, config, tuning = ranks.device, case.configure(tiny), tuning_of(name, tiny)
    table = Table(arguments.table) if case.table else None
    rate = product_rate(device)
    reset_peak(device)
    start = time.perf_counter()
    objective = build_objective(config, tuning, ranks, table.tokenizer.sop_id if table else None)
    if arguments.compile:
        objective.model.compile_blocks()
    wait(device)
    seconds, (held, peak) = time.perf_counter() - start, gib(device)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    trained = sum(p.numel() for _, p in objective.model.trained_parameters())
    print(f"\n{name}: {trained:,} numbers train; {card}, torch {torch.__version__}, {rate / 1e12:.0f} TFLOP/s")
    print(f"built in {seconds:.1f} s: {held:.2f} GiB held, {peak:.2f} at most while building", flush=True)
    record("weights", "torch's allocator", values={"trained": trained, "held_gib": held, "building_gib": peak})
    engine = DeepSpeedEngine(objective, config, PARTS if table else 1, ranks)
    set_up(objective.model, False, arguments.graphs)
    if table:
        measure_table(table, case, config, objective, engine, rate)
    else:
        measure_fixed_length(case, config, objective, engine, rate, arguments)
    distributed.stop()


def measure_fixed_length(
    case: TunedModel,
    config: Config,
    objective: GenerationObjective,
    engine: DeepSpeedEngine,
    rate: float,
    arguments: argparse.Namespace,
) -> None:
    """Rows of one length, nothing padded."""
    model = objective.model
    data = batches(config, case.case(arguments.tiny), model, 2)
    flops, (rows, tokens) = step_flops(config, model, data[0]), data[0].input_ids.shape
    targets = int(data[0].labels.ne(IGNORED).sum())
    print(f"{rows} rows of {tokens} tokens, {targets} targets, {flops / rows / 1e9:.0f} GFLOP a sample\n{HEADER}")
    for number, recompute in enumerate(case.recompute):
        set_up(model, recompute, arguments.graphs)
        label = "with recompute" if recompute else "without recompute"
        step = engine_step(objective, engine, journal := Journal())
        result = measure(label, step, data, arguments.steps, flops / rate)
        print(f"{result.row()}\n{journal.line(model.language.vocabulary)}", flush=True)
        if number == 0:
            judge(case, result)


def measure_table(
    table: Table, case: TunedModel, config: Config, objective: GenerationObjective, engine: DeepSpeedEngine, rate: float
) -> None:
    """Whole passes over the items of a table."""
    model, rows = objective.model, table.rows(config)
    lengths = [len(row.input_ids) for row in rows]
    print(f"{len(rows)} items of {sum(lengths) / len(rows):.1f} tokens on average, {max(lengths)} at most", end="; ")
    print(f"{PARTS} x {MICRO} rows a step; {OTHERS}\n{HEADER}", flush=True)
    for number, window in enumerate(WINDOWS):
        steps, journal = table.steps(config, rows, window, model.mean.device), Journal()
        name = f"window {window}{', again' if window in WINDOWS[:number] else ''}"
        if not steps:
            print(f"{name}: left out, too few items")
            continue
        result, padding = measure_pass(name, steps, objective, engine, journal, rate, config)
        print(f"{result.row()}\n    {len(steps) * PARTS} batches, {100 * padding:.0f} % padding")
        print(journal.line(model.language.vocabulary), flush=True)
        if window == 1 and number == WINDOWS.index(1):
            judge(case, result)


def measure_pass(
    name: str,
    steps: Sequence[Sequence[PromptBatch]],
    objective: GenerationObjective,
    engine: DeepSpeedEngine,
    journal: Journal,
    rate: float,
    config: Config,
) -> tuple[Result, float]:
    """One pass after the longest step as a warm-up, nothing waited for in between; and the share of padding."""
    device, parts = objective.model.mean.device, [part for step in steps for part in step]
    flops = sum(step_flops(config, objective.model, part) for part in parts)
    tokens = sum(part.input_ids.numel() for part in parts)
    real = sum(int(part.attention_mask.sum()) for part in parts)

    def run(step: Sequence[PromptBatch]) -> None:
        count = torch.stack([objective.units(part)["lm"] for part in step]).sum()
        outputs, update = engine.step(step, lambda: [{"lm": 1 / count}] * len(step), LR)
        journal.losses.append(torch.stack([output.sums["lm"] for output in outputs]).sum() / count)
        journal.skipped += not update.applied

    longest = max(steps, key=lambda step: max(part.input_ids.shape[1] for part in step))
    for _ in range(2):
        run(longest)
    wait(device)
    reset_peak(device)
    start = time.perf_counter()
    for step in steps:
        run(step)
    wait(device)
    seconds = (time.perf_counter() - start) / len(steps)
    rows = sum(part.valid.shape[0] for part in steps[0])
    result = Result(name, rows, seconds, math.nan, gib(device)[1], flops / rate / len(steps))
    result.record(
        f"mean of a pass of {len(steps)} steps, waited for at its end", {"padding_percent": 100 * (1 - real / tokens)}
    )
    return result, 1 - real / tokens


def judge(case: TunedModel, result: Result) -> None:
    """Say whether the case's targets are met."""
    speed = result.pairs / result.seconds
    if case.least is not None:
        print(
            f"    target {case.least:.0f} samples/s or more: {'met' if speed >= case.least else 'missed'}", flush=True
        )
    if case.most is not None:
        print(f"    target {case.most:.0f} GiB or less: {'met' if result.gib <= case.most else 'missed'}", flush=True)


def main(argv: Sequence[str]) -> int:
    """Run the chosen cases, each in a process of its own; returns 1 if any failed."""
    arguments = parse(argv)
    if arguments.single:
        run_case(arguments.single, arguments)
        return 0
    if arguments.table:
        argv = [*argv, "--table", str(arguments.table.resolve())]  # the cases run in the project's folder
    environment = {**os.environ, **({"DS_ACCELERATOR": "cpu"} if arguments.cpu else {})}
    failed = []
    for name in arguments.only:
        if CASES[name].table and not arguments.table:
            print(f"\n{name}: left out, it needs --table", flush=True)
            continue
        command = [sys.executable, "-m", "benchmarks.finetune", *argv, "--single", name]
        if subprocess.run(command, check=False, env=environment, cwd=ROOT).returncode:
            failed.append(name)
            print(f"{name}: failed", flush=True)
    return 1 if failed else 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), help="what to measure")
    parser.add_argument("--table", type=Path, help="JSON list of objects with img, prompt and label")
    parser.add_argument("--steps", type=int, default=6, help="steps measured")
    parser.add_argument("--compile", action="store_true", help="torch.compile, as engine.compile")
    parser.add_argument("--graphs", action=argparse.BooleanOptionalAction, help="engine.graphs; none: null")
    parser.add_argument("--tiny", action="store_true", help="toy shapes, to try the script")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    parser.add_argument("--single", choices=list(CASES), help=argparse.SUPPRESS)  # one case, in this process
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
