"""Speed and memory of a stage-one step at full size: `python -m benchmarks.stage1`.

EVA ViT-g/14, BERT-base Q-Former, random weights and pictures, batch 100, 224 px, 32 text tokens. The floor is the
arithmetic a step must do (`vglm_train.model.flops`) at the rate of a large bf16 product measured in the same run.
"""

import argparse
import gc
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.rates import product_rate, wait
from benchmarks.record import record
from vglm_train import distributed
from vglm_train.batch import PairBatch
from vglm_train.config.data import Data
from vglm_train.config.model import Model, QFormer, Text, Vision
from vglm_train.config.run import Config, Objective, Optim, Run
from vglm_train.distributed import Ranks
from vglm_train.engine.deepspeed_engine import DeepSpeedEngine
from vglm_train.model.alignment import build_alignment
from vglm_train.model.flops import flops_per_pair
from vglm_train.objective.alignment import AlignmentObjective

FULL = Model()
TINY = Model(
    vision=Vision(image_size=28, patch=14, width=32, depth=1, heads=2, mlp_width=64),
    qformer=QFormer(layers=2, width=32, heads=2, mlp_width=64, queries=4),
    text=Text(max_length=8),
    contrastive_width=16,
)
VOCABULARY = 30523
Step = Callable[[PairBatch], None]
BuildStep = Callable[[AlignmentObjective, torch.device], Step]


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table."""

    name: str
    pairs: int
    seconds: float  # median of a step
    spread: float  # between the fastest and the slowest tenth, as a fraction of the median
    gib: float  # most memory that torch reserved while stepping, recorded passes included
    floor: float  # seconds

    def record(self, method: str, values: Mapping[str, float] | None = None) -> None:
        """Leave it for `vglm benchmark`."""
        record(
            self.name, method, samples_per_s=self.pairs / self.seconds, ms=1e3 * self.seconds, spread=self.spread,
            peak_gib=self.gib, floor_ms=1e3 * self.floor, values=values,
        )  # fmt: skip

    def row(self) -> str:
        return (
            f"{self.name:32} {self.pairs / self.seconds:9.1f} {1e3 * self.seconds:9.2f} {100 * self.spread:6.1f}% "
            f"{self.gib:9.2f} {1e3 * self.floor:9.2f} {self.seconds / self.floor:6.2f}"
        )


HEADER = f"{'':32} {'images/s':>9} {'ms':>9} {'spread':>7} {'peak GiB':>9} {'floor ms':>9} {'ratio':>6}"


def build_objective(config: Model, device: torch.device, compiled: bool) -> AlignmentObjective:
    """A full stage-one objective with random weights, in training mode, alone in its process group."""
    torch.manual_seed(0)
    with device:
        model = build_alignment(config, VOCABULARY, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    if compiled:
        model.compile_blocks()
    return AlignmentObjective(model, Objective(), Ranks(device=device), 0, dec_id=VOCABULARY - 1).train()


def bare_step(objective: AlignmentObjective, device: torch.device) -> Step:
    """The plain loop: bf16 autocast and torch's fused AdamW, no engine."""
    parameters = [parameter for _, parameter in objective.model.trained_parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.05, fused=device.type == "cuda")

    def step(batch: PairBatch) -> None:
        units = objective.units(batch)
        with torch.autocast(device.type, torch.bfloat16):
            output = objective(batch)
        sum(output.sums[name] / units[name] for name in output.sums).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def engine_step(objective: AlignmentObjective, device: torch.device) -> Step:
    """What train.py runs: DeepSpeed with ZeRO 1, gradients clipped, and no update where they are not finite."""
    config = Config(run=Run(name="benchmark"), optim=Optim(clip=1.0), data=Data(global_batch=1))
    engine = DeepSpeedEngine(objective, config, 1, distributed.start())

    def factors(batch: PairBatch) -> dict[str, torch.Tensor]:
        return {name: objective.weights[name] / count for name, count in objective.units(batch).items()}

    def step(batch: PairBatch) -> None:
        engine.step([batch], lambda: [factors(batch)], 1e-4)

    return step


def batches(config: Model, rows: int, number: int, device: torch.device) -> list[PairBatch]:
    """Random pairs of unequal text lengths, on the device: the loader is not what is measured."""
    generator = torch.Generator(device).manual_seed(1)
    size, t = config.vision.image_size, config.text.max_length
    made = []
    for index in range(number):
        lengths = torch.randint(t // 4, t + 1, (rows, 1), device=device, generator=generator)
        mask = torch.arange(t, device=device) < lengths
        ids = torch.randint(1000, VOCABULARY - 1, (rows, t), device=device, generator=generator)
        shape = (rows, 3, size, size)
        made.append(
            PairBatch(
                pixels=torch.randint(0, 256, shape, dtype=torch.uint8, device=device, generator=generator),
                text_ids=ids.where(mask, 0),
                text_mask=mask,
                image_ids=torch.arange(rows, device=device),
                valid=torch.ones(rows, dtype=torch.bool, device=device),
                first_row=index * rows,
            )
        )
    return made


def measure(
    name: str,
    step: Step,
    data: Sequence[PairBatch],
    steps: int,
    floor: float,
    values: Mapping[str, float] | None = None,
    held: float = 0.0,
) -> Result:
    """Median time of a step after a warm-up, and the peak memory of those steps; `values` are recorded with them.

    `held`: GiB that something else keeps, which are not counted. See `still_held`.
    """
    device = data[0].pixels.device
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what an earlier variant reserved and needs no more is not this one's
    for index in range(max(5, steps // 5) if device.type == "cuda" else 1):
        step(data[index % len(data)])
    wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    for index in range(steps):
        start = time.perf_counter()
        step(data[index % len(data)])
        wait(device)  # costs the overlap of one step's launches with the last: what is reported is not flattered
        times.append(time.perf_counter() - start)
    times.sort()
    median, tenth = times[len(times) // 2], len(times) // 10
    gib = torch.cuda.max_memory_reserved(device) / 2**30 - held if device.type == "cuda" else float("nan")
    rows = data[0].valid.shape[0]
    result = Result(name, rows, median, (times[-1 - tenth] - times[tenth]) / median, gib, floor)
    result.record(f"median of {steps} steps of {rows} rows after a warm-up, each waited for", values)
    return result


def still_held(device: torch.device) -> float:
    """GiB of an earlier variant, since DeepSpeed never lets go of an engine, and of the data.

    What lies free between pieces of it can be used again, so that a later variant looks that much smaller.
    """
    gc.collect()
    if device.type != "cuda":
        return 0.0
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved(device) / 2**30


def profile(step: Step, batch: PairBatch) -> str:
    """The kernels of one step that take longest."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recorder

    with recorder(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        step(batch)
        wait(batch.pixels.device)
    return recorded.key_averages().table(sort_by="self_cuda_time_total", row_limit=40, max_name_column_width=90)


def run(arguments: argparse.Namespace, variants: dict[str, BuildStep]) -> list[Result]:
    """Measure every variant of a step, eager and, if chosen, compiled, each on its own model; prints as it goes."""
    if arguments.cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    device = distributed.start(grow=True).device  # before the GPU's first use, as train.py does
    config = TINY if arguments.tiny else FULL
    config = replace(config, qformer=replace(config.qformer, dropout=arguments.dropout))
    rate = product_rate(device)
    floor = arguments.batch * flops_per_pair(config, VOCABULARY) / rate
    data = batches(config, arguments.batch, 4, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, batch {arguments.batch}, {rate / 1e12:.0f} TFLOP/s in bf16 products")
    print(f"{flops_per_pair(config, VOCABULARY) / 1e9:.0f} GFLOP a pair\n{HEADER}", flush=True)
    results = []
    for compiled in {"no": [False], "yes": [True], "both": [False, True]}[arguments.compile]:
        for variant, build in variants.items():
            held = still_held(device)
            objective = build_objective(config, device, compiled)
            step = build(objective, device)
            if device.type == "cuda" and not arguments.no_graphs:
                objective.model.graph_passes()  # only now: the engine moves weights, which graphs read in place
            label = f"{variant}, {'compiled' if compiled else 'eager'}"
            results.append(measure(label, step, data, arguments.steps, floor, held=held))
            print(results[-1].row(), flush=True)
            if arguments.profile:
                print(profile(step, data[0]))
            del objective, step
    return results


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--batch", type=int, default=100, help="pairs a step")
    parser.add_argument("--steps", type=int, default=30, help="steps measured")
    parser.add_argument("--compile", choices=("no", "yes", "both"), default="both")
    parser.add_argument("--no-graphs", action="store_true", help="do not record the Q-Former's passes as CUDA graphs")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--tiny", action="store_true", help="a toy shape, to try the script")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    parser.add_argument("--profile", action="store_true", help="print the longest kernels")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(parse(), {"bare loop": bare_step, "engine, ZeRO 1": engine_step})
