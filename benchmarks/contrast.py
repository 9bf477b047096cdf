"""What objective.itc.batch costs at full size: `python -m benchmarks.contrast --compared 4096`.

EVA ViT-g/14, BERT-base Q-Former, random weights and pictures. The first line is a step of 256 pairs that run and are
compared at once; the others compare more, by micro-batches, in one update. With --stored, the encoder's outputs are
given, random ones on the device, and its time is not spent. Steps are the engine's, ZeRO 1.

`torchrun --nproc-per-node 4 -m benchmarks.contrast --direct --compared 65536` compares the rows of all ranks. Every
rank has the micro-batches that the stream would deal it, of the same pairs as one process has.
"""

import argparse
import contextlib
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.stage1 import FULL, TINY, VOCABULARY, batches, product_rate, still_held
from vglm_train import distributed
from vglm_train.batch import PairBatch
from vglm_train.config.data import Data
from vglm_train.config.model import Model
from vglm_train.config.run import Config, Contrastive, Engine, Objective, Run
from vglm_train.distributed import Ranks
from vglm_train.engine.deepspeed_engine import DeepSpeedEngine
from vglm_train.model.alignment import Alignment, build_alignment
from vglm_train.model.flops import flops_per_pair
from vglm_train.model.recorder import AFTER
from vglm_train.objective.alignment import AlignmentObjective

GIB = 2**30
Step = Callable[[list[PairBatch]], torch.Tensor]  # its loss, of all ranks
DIRECT = (3, 10)  # steps before those measured, and these, of what runs at once
HEADER = f"{'compared':>9} {'at once':>8} {'pairs/s':>9} {'ms a pair':>10} {'ratio':>6} {'peak GiB':>9} {'features':>9}"


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table."""

    rows: int  # of all ranks
    micro: int
    seconds: float  # a pair, of the slowest rank
    peak: float  # GiB, of the rank with most
    features: float  # GiB, given ones of a rank
    loss: float  # of the first step

    def line(self, first: "Result") -> str:
        speed = f"{1 / self.seconds:9.1f} {1e3 * self.seconds:10.4f} {self.seconds / first.seconds:6.3f}"
        return f"{self.rows:9,} {self.micro:8} {speed} {self.peak:9.2f} {self.features:9.2f}"


def built_model(config: Model, arguments: argparse.Namespace, ranks: Ranks) -> Alignment:
    torch.manual_seed(0)
    with ranks.device:
        model = build_alignment(config, VOCABULARY, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    if arguments.compile:
        model.compile_blocks()
    if arguments.graphs:
        model.graph_passes()
    return model


def micro_batches(
    config: Model, model: Alignment, rows: int, micro: int, stored: bool, ranks: Ranks
) -> list[PairBatch]:
    """This rank's of pairs of different pictures that follow each other in the stream, on the device.

    The ranks' micro-batches take turns. Each rank draws the features of all, so that a pair is the same for any number
    of ranks.
    """
    device, made = model.temperature.device, []
    empty = torch.empty(0, dtype=torch.uint8, device=device)
    (template,) = batches(config, micro, 1, device)
    for start in range(0, rows, micro):
        ids = torch.arange(start, start + micro, device=device)
        batch = replace(template, first_row=start, image_ids=ids, text_ids=template.text_ids.roll(start // micro, 0))
        if stored:
            shape = (micro, model.vision.num_patches, model.vision.width)
            features = torch.randn(shape, dtype=model.vision.dtype, device=device)
            batch = replace(batch, pixels=empty, features=features)
        else:
            batch = replace(batch, pixels=template.pixels.roll(start // micro, 0))
        if start // micro % ranks.world == ranks.rank:
            made.append(batch)
    return made


def record(objective: AlignmentObjective, batch: PairBatch) -> None:
    """Forward until its passes are recorded, as a run does once, in its first step.

    Neither the time nor the memory that recording takes is in the table.
    """
    with torch.autocast(batch.valid.device.type, torch.bfloat16):
        for _ in range(AFTER):
            objective.prepare([batch])
            objective(batch)


def stepping(model: Alignment, data: list[PairBatch], rows: int, micro: int, grouped: bool, ranks: Ranks) -> Step:
    """What train.py does with the micro-batches of one step."""
    objective = Objective(itc=Contrastive(batch=rows if grouped else None))
    built = AlignmentObjective(model, objective, ranks, 0, dec_id=VOCABULARY - 1).train()
    config = Config(run=Run(name="benchmark"), data=Data(global_batch=rows), engine=Engine(micro_batch=micro))
    engine = DeepSpeedEngine(built, config, rows // (micro * ranks.world), ranks)
    if grouped:
        record(built, data[0])

    def step(data: list[PairBatch]) -> torch.Tensor:
        built.prepare(data)
        scale: dict[str, torch.Tensor] = {}

        def scales() -> list[dict[str, torch.Tensor]]:
            units = [built.units(batch) for batch in data]
            sums = torch.stack([torch.stack([each[name] for each in units]).sum() for name in units[0]])
            # times the ranks, since the engine averages their gradients
            factors = (built.weights[name] * ranks.world / n for name, n in zip(units[0], ranks.all_sum(sums)))
            scale.update(zip(units[0], factors))
            return [scale] * len(data)

        outputs, _ = engine.step(data, scales, 1e-5)
        return torch.stack([output.sums[name] * scale[name] for output in outputs for name in scale]).sum()

    return step


def measure(step: Step, data: list[PairBatch], warm_up: int, steps: int, ranks: Ranks, held: float) -> Result:
    """Mean time of a step after some that do not count, and the peak memory of those that do.

    held: GiB that an earlier line keeps, which are not counted. See `stage1.still_held`.
    """
    cuda, losses = data[0].valid.is_cuda, []
    for _ in range(warm_up):
        losses.append(step(data))
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(steps):
        losses.append(step(data))
    if cuda:
        torch.cuda.synchronize()
    rows, micro = ranks.world * sum(len(batch.valid) for batch in data), len(data[0].valid)
    seconds = (time.perf_counter() - start) / steps / rows
    peak = torch.cuda.max_memory_reserved() / GIB - held if cuda else float("nan")
    found = ranks.gather(torch.tensor([[seconds, peak]], dtype=torch.float64, device=data[0].valid.device))
    seconds, peak = found.max(0).values.tolist()
    loss = float(ranks.all_sum(losses[0].clone())) / ranks.world
    features = sum(b.features.nbytes for b in data if b.features is not None) / GIB
    return Result(rows, micro, seconds, peak, features, loss)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--direct", type=int, nargs="*", default=[256], help="pairs of steps without it; may be empty")
    parser.add_argument("--compared", type=int, nargs="*", default=[4096], help="objective.itc.batch")
    parser.add_argument("--micro", type=int, default=128, help="pairs that run at once")
    parser.add_argument("--steps", type=int, default=2, help="steps measured")
    parser.add_argument("--warm-up", type=int, default=1, help="steps before them")
    parser.add_argument("--stored", action="store_true", help="the encoder's outputs are given")
    parser.add_argument("--compile", action="store_true", help="torch.compile the Q-Former's blocks")
    parser.add_argument("--graphs", action="store_true", help="its passes as CUDA graphs")
    parser.add_argument("--dropout", type=float, default=FULL.qformer.dropout, help="of the Q-Former")
    parser.add_argument("--losses", action="store_true", help="print the loss of each first step as well")
    parser.add_argument("--tiny", action="store_true", help="a toy shape, to try the script")
    arguments = parser.parse_args(argv)
    ranks, config = distributed.start(grow=True), TINY if arguments.tiny else FULL
    config = replace(config, qformer=replace(config.qformer, dropout=arguments.dropout))
    for rows, unit in [(n, 1) for n in arguments.direct] + [(n, arguments.micro) for n in arguments.compared]:
        if rows % (unit * ranks.world):
            parser.error(f"{rows} pairs are no multiple of {unit} a micro-batch times {ranks.world} processes")
    with contextlib.nullcontext() if ranks.main else contextlib.redirect_stdout(io.StringIO()):
        run(config, arguments, ranks)
    distributed.stop()


def run(config: Model, arguments: argparse.Namespace, ranks: Ranks) -> None:
    """Measure all lines; prints as it goes."""
    name = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "CPU"
    per_pair = flops_per_pair(config, VOCABULARY, encoder=not arguments.stored) / 1e9
    print(f"{name}, torch {torch.__version__}, {product_rate(ranks.device) / 1e12:.0f} TFLOP/s in bf16 products")
    processes = f", {ranks.world} processes" if ranks.world > 1 else ""
    encoder = "stored features" if arguments.stored else "with the encoder"
    print(f"{per_pair:.0f} GFLOP a pair, {encoder}{processes}\n{HEADER}", flush=True)
    results: list[Result] = []
    for grouped, rows in [(False, n) for n in arguments.direct] + [(True, n) for n in arguments.compared]:
        direct = (rows // ranks.world, DIRECT)
        micro, times = (arguments.micro, (arguments.warm_up, arguments.steps)) if grouped else direct
        held = still_held(ranks.device)
        model = built_model(config, arguments, ranks)  # another each time: the engine leaves hooks on its weights
        data = micro_batches(config, model, rows, micro, arguments.stored, ranks)
        results.append(measure(stepping(model, data, rows, micro, grouped, ranks), data, *times, ranks, held))
        print(results[-1].line(results[0]), flush=True)
        if arguments.losses:
            print(f"loss {results[-1].loss:.6f}", flush=True)
        model.qformer.graphs = None  # with their memory: DeepSpeed keeps the engine, and the engine its model
        del data, model


if __name__ == "__main__":
    main()
