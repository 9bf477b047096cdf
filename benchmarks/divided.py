"""Stage two before a language model of LLaMA-13B's shape whose frozen blocks lie elsewhere until they run.

`torchrun --nproc-per-node 2 -m benchmarks.divided --zero 3` divides them among the cards, `python -m benchmarks.divided
--offload` keeps them in the machine's memory, and without both each card has them all. EVA ViT-g/14, Q-Former with 32
queries, all in bf16; steps of the engine. Random weights and pictures are drawn on the card from one seed, and there is
no dropout, so the first losses are the same but for rounding. Run it where the project's `configs/` is found.
"""

import argparse
import contextlib
import io
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.divided_model import CASE, Clock, build, configure
from benchmarks.rates import timed, wait
from benchmarks.record import record
from benchmarks.stage2 import LR, Step, batches, cut
from vglm_train import distributed
from vglm_train.batch import PromptBatch
from vglm_train.config.run import Config
from vglm_train.distributed import Ranks
from vglm_train.engine.deepspeed_engine import DeepSpeedEngine
from vglm_train.model.frozen_blocks import FrozenBlocks
from vglm_train.model.visual_language import VisualLanguageModel
from vglm_train.objective.generation import GenerationObjective

GIB = 2**30
HEADER = (
    f"{'':24} {'ms':>9} {'spread':>7} {'samples/s':>10} {'reserved':>9} {'allocated':>9} {'GB moved':>9} "
    f"{'retries':>8} {'allocs':>7}"
)


class Moved:
    """Bytes of blocks that were gathered or copied to this card."""

    def __init__(self, frozen: FrozenBlocks | None) -> None:
        self.bytes = 0
        for block in frozen.blocks if frozen else ():
            block.fill = self._counting(block.fill, block.size)  # type: ignore[method-assign]

    def _counting(self, fill: Callable[[], None], size: int) -> Callable[[], None]:
        def counted() -> None:
            self.bytes += size
            fill()

        return counted


@dataclass(frozen=True, slots=True)
class Result:
    """Steps of all ranks: each number is that of the rank with the largest."""

    seconds: float  # median of a step
    spread: float  # between the fastest and the slowest, as a fraction of the median
    reserved: float  # GiB
    allocated: float  # GiB
    moved: float  # bytes a step
    retries: float  # of the allocator, in all steps measured
    allocs: float  # the allocator's requests to the device, in all steps measured

    def record(self, name: str, rows: int, method: str, values: dict[str, float]) -> None:
        """Leave it for `vglm benchmark`."""
        own = {"allocated_gib": self.allocated, "moved_gb": self.moved / 1e9, "retries": self.retries}
        others = {key: value for key, value in values.items() if key != "floor_ms"}
        record(
            name, method, samples_per_s=rows / self.seconds, ms=1e3 * self.seconds, spread=self.spread,
            peak_gib=self.reserved or None, floor_ms=values.get("floor_ms"),
            values={**own, "allocs": self.allocs, **others},
        )  # fmt: skip

    def row(self, name: str, rows: int) -> str:
        return (
            f"{name:24} {1e3 * self.seconds:9.2f} {100 * self.spread:6.1f}% {rows / self.seconds:10.2f} "
            f"{self.reserved:9.2f} {self.allocated:9.2f} {self.moved / 1e9:9.2f} {self.retries:8.0f} {self.allocs:7.0f}"
        )


def stepping(model: VisualLanguageModel, config: Config, ranks: Ranks, losses: list[Tensor]) -> Step:
    """What train.py does in a step with one micro-batch; `losses` gets the mean over all ranks' targets, in parts."""
    objective = GenerationObjective(model).train()
    engine = DeepSpeedEngine(objective, config, 1, ranks)

    def step(batch: PromptBatch) -> None:
        count = ranks.all_sum(objective.units(batch)["lm"])
        # times the ranks, since the engine averages their gradients
        (output,), update = engine.step([batch], lambda: [{"lm": ranks.world / count}], LR)
        assert update.applied, "a gradient was not finite"
        losses.append(output.sums["lm"] / count)

    return step


def measure(step: Step, data: Sequence[PromptBatch], first: int, steps: int, moved: Moved, ranks: Ranks) -> Result:
    """Steps after the `first` ones, each waited for."""
    device, times = ranks.device, []
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    before, bytes_before = requests(device), moved.bytes
    for index in range(first, first + steps):
        start = time.perf_counter()
        step(data[index % len(data)])
        wait(device)
        times.append(time.perf_counter() - start)
    after = requests(device)
    times.sort()
    median = times[len(times) // 2]
    peaks = (torch.cuda.max_memory_reserved(device), torch.cuda.max_memory_allocated(device)) if cuda else (0, 0)
    own = [median, (times[-1] - times[0]) / median, *(peak / GIB for peak in peaks)]
    own += [(moved.bytes - bytes_before) / steps, *(new - old for new, old in zip(after, before))]
    found = ranks.gather(torch.tensor([own], dtype=torch.float64, device=device)).max(0).values
    return Result(*found.tolist())


def requests(device: torch.device) -> tuple[int, int]:
    """How often torch's allocator had to empty itself and try again, and asked the device for memory."""
    stats = torch.cuda.memory_stats(device) if device.type == "cuda" else {}
    return stats.get("num_alloc_retries", 0), stats.get("num_device_alloc", 0)


def to_card_rate(source: Tensor, device: torch.device) -> float:
    """Bytes a second from the machine's memory."""
    target = torch.empty_like(source, device=device)
    return source.nbytes / timed(lambda: target.copy_(source, non_blocking=True), device)


def transfer_lines(frozen: FrozenBlocks, result: Result, compute_ms: float, ranks: Ranks) -> dict[str, float]:
    """What a step's bytes need at the rate of this machine; prints it. Values for `record`."""
    device = ranks.device
    size = GIB if device.type == "cuda" else 1 << 20
    pinned = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda").fill_(1)
    rate = to_card_rate(pinned, device)
    own = to_card_rate(max((block.piece for block in frozen.blocks), key=len), device)
    transfer = result.moved / frozen.ranks.world / rate  # of divided blocks, the others' pieces come from their cards
    floor = max(transfer, compute_ms / 1e3)
    print(f"from pinned memory {rate / 1e9:.1f} GB/s, from a block's own {own / 1e9:.1f}", end=": ")
    print(f"a step's bytes need {1e3 * transfer:.1f} ms", end="")
    print(f", the plain step {compute_ms:.1f} ms" if compute_ms else "", end="")
    print(f"; the step takes {result.seconds / floor:.3f} times the larger", flush=True)
    return {"pinned_gb_s": rate / 1e9, "own_gb_s": own / 1e9, "transfer_ms": 1e3 * transfer, "floor_ms": 1e3 * floor}


def label(arguments: argparse.Namespace, ranks: Ranks) -> str:
    ways = [f"zero {arguments.zero}", *(word for word in ("offload", "recompute") if getattr(arguments, word))]
    return ", ".join([*ways, f"{ranks.world} card{'s' if ranks.world > 1 else ''}"])


def head(model: VisualLanguageModel, frozen: FrozenBlocks | None, words: str, ranks: Ranks) -> str:
    """What is measured, where its weights lie, and the memory that building took."""
    card = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "CPU"
    blocks = frozen.blocks if frozen else []
    size, kept = (sum(getattr(block, name) for block in blocks) / 1e9 for name in ("size", "piece_size"))
    weights = sum(p.nbytes for p in model.parameters()) / 1e9
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return (
        f"{card}, torch {torch.__version__}; {words}\n{size:.2f} GB of moved blocks, {kept:.2f} kept by this rank; "
        f"{weights:.2f} GB of other weights on its card; {host:.1f} GiB of the machine's memory at most"
    )


def run(arguments: argparse.Namespace, ranks: Ranks, clock: Clock) -> None:
    """Build the model and measure its steps; prints as it goes."""
    with tempfile.TemporaryDirectory() as folder:
        config = configure(arguments, Path(folder))
        model, frozen = build(config, ranks, clock)
    name, rows = label(arguments, ranks), arguments.rows
    data = [cut(batch, rows // ranks.world)[ranks.rank] for batch in batches(config, CASE, model, 4)]
    words = f"{name}, {rows} rows of {data[0].input_ids.shape[1]} places"
    print(head(model, frozen, words, ranks), flush=True)
    losses: list[Tensor] = []
    step, moved = stepping(model, config, ranks, losses), Moved(frozen)
    clock.reached("engine")
    step(data[0])
    clock.reached("first step")
    print(f"{clock.line()}\n{HEADER}", flush=True)
    for index in range(1, arguments.warm_up):
        step(data[index % len(data)])
    wait(ranks.device)
    result = measure(step, data, arguments.warm_up, arguments.steps, moved, ranks)
    means = ranks.all_sum(torch.stack(losses)).tolist()
    print(result.row(name, rows))
    print("first losses", *(f"{loss:.6f}" for loss in means[:3]), flush=True)
    values = {"start_s": sum(clock.parts.values()), "first_loss": means[0]}
    if frozen and frozen.offload:
        values |= transfer_lines(frozen, result, arguments.compute_ms, ranks)
    if ranks.main:
        method = f"median of {arguments.steps} steps of {rows} rows after {arguments.warm_up}, each waited for"
        result.record(name, rows, method, values)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--zero", type=int, choices=(1, 2, 3), default=1, help="engine.zero")
    parser.add_argument("--offload", action="store_true", help="engine.offload=cpu")
    parser.add_argument("--recompute", action="store_true", help="engine.recompute")
    parser.add_argument("--rows", type=int, default=CASE.rows, help="of all cards, a step")
    parser.add_argument("--steps", type=int, default=6, help="steps measured")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before them, one at least")
    parser.add_argument("--layers", type=int, help="blocks of the language model; none: 40")
    parser.add_argument("--compute-ms", type=float, default=0.0, help="a plain step, to compare a transfer with")
    parser.add_argument("--tiny", action="store_true", help="toy shapes, to try the script")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    arguments = parse(argv)
    if arguments.cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    ranks = distributed.start()
    if arguments.rows % ranks.world or min(arguments.steps, arguments.warm_up) < 1:
        raise SystemExit("--rows has to divide among the processes, and --steps and --warm-up have to be 1 at least")
    if ranks.device.type == "cuda":  # torchrun allows one thread
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks.world))
    with contextlib.nullcontext() if ranks.main else contextlib.redirect_stdout(io.StringIO()):
        run(arguments, ranks, Clock(ranks.device))
    distributed.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
