"""What an image encoder in eight bits does to training: `python -m benchmarks.fp8_training --photos FOLDER`.

Stage one at full size on real photos with captions, before an encoder of random weights with the outlier channels of
`benchmarks.fp8`. It is trained from several seeds in bf16 and from the first of them in fp8, all at once on one card.
Two questions: is the loss of eight bits as near to that of bf16 from the same seed as seeds are to each other, and does
it find the photos it was trained on as well? Needs a Hopper GPU.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import starmap
from pathlib import Path
from statistics import mean

import torch
from safetensors.torch import save_file

from benchmarks.fp8 import build, plant
from benchmarks.record import record
from benchmarks.scaling import Started, read_rows
from benchmarks.scaling_data import MadeData, make_data
from benchmarks.stage1 import TINY
from benchmarks.stage2_cases import ROOT
from vglm_train.config.model import Vision
from vglm_train.errors import UserError

EVERY = 10  # steps of a row, whose loss is their mean
PATIENCE = 570.0  # seconds that all runs may take
RECALL = "eval/r_mean"  # per cent


def write_encoder(path: Path, tiny: bool) -> None:
    """Planted weights in bf16, on the GPU where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() and not tiny else "cpu")
    shape = replace(TINY.vision, dtype="fp32") if tiny else Vision()
    encoder = build(shape, device) if tiny else plant(build(shape, device))
    save_file({name: t.to("cpu", torch.bfloat16).contiguous() for name, t in encoder.state_dict().items()}, path)


def command(
    data: MadeData, encoder: Path, folder: Path, dtype: str, seed: int, options: argparse.Namespace
) -> list[str]:
    """train.py on the photos, which are also what it is asked about at the end."""
    rows = options.batch
    words = [word for word in data.overrides("align", options.tiny) if not word.startswith("model.vision.weights=")]
    words += [f"data.validation=[{{name: photos, shards: {data.folder / 'shards'}}}]", "data.workers=2",
              "evaluate.allow_training_data=true", f"data.global_batch={rows}", f"engine.micro_batch={rows}",
              f"run.length={{steps: {options.steps}}}", f"log.every={EVERY}", "checkpoint.every=1000000",
              f"run.folder={folder}", f"run.seed={seed}", f"model.vision.weights={encoder}",
              f"model.vision.dtype={dtype}"]  # fmt: skip
    return [sys.executable, "train.py", str(ROOT / "configs/pretrain/lavis_stage1.yaml"), *words]


def trained(runs: Mapping[str, list[str]], work: Path, cpu: bool) -> None:
    """All of them at once. UserError with the end of its log for one that fails, or that takes too long."""
    with ExitStack() as all_of_them:
        started = {name: Started(words, work / f"{name}.log", cpu) for name, words in runs.items()}
        processes = {name: all_of_them.enter_context(run) for name, run in started.items()}
        end = time.monotonic() + PATIENCE
        while any(process.poll() is None for process in processes.values()) and time.monotonic() < end:
            time.sleep(0.5)
        for name, process in processes.items():
            if process.poll() != 0:
                tail = (work / f"{name}.log").read_text("utf-8", "replace")[-2000:]
                raise UserError(f"{name} ended with {process.poll()}:\n{tail}")


def losses(folder: Path) -> list[float]:
    return [row["train/loss"] for row in read_rows(folder)]


def recall(folder: Path) -> float:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text("utf-8").splitlines())
    return float(next(row[RECALL] for row in rows if RECALL in row))


def apart(eight: Sequence[float], same: Sequence[float], seeds: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Means over all rows: how far fp8 is from bf16 with the same seed, and half the spread of bf16's seeds."""
    halves = ((max(row) - min(row)) / 2 for row in zip(*seeds, strict=True))
    return mean(abs(a - b) for a, b in zip(eight, same, strict=True)), mean(halves)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    dtype = "bf16" if options.tiny else "fp8"  # fp8 cannot be trained with on a CPU
    with tempfile.TemporaryDirectory(dir=options.work) as place:
        work = Path(place)
        data, encoder = make_data(work / "data", options.photos, options.vocabulary), work / "encoder.safetensors"
        write_encoder(encoder, options.tiny)
        jobs = {f"bf16-{seed}": ("bf16", seed) for seed in range(options.seeds)} | {"fp8-0": (dtype, 0)}
        runs = {name: command(data, encoder, work / name, *job, options) for name, job in jobs.items()}
        trained(runs, work, options.tiny)
        found = {name: losses(work / name) for name in jobs}
        recalls = {name: recall(work / name) for name in jobs}
    seeds = [rows for name, rows in found.items() if name != "fp8-0"]
    difference, spread = apart(found["fp8-0"], found["bf16-0"], seeds)
    if options.tiny:
        print("TINY SHAPES ON THE CPU, where the run named fp8 is in bf16: this tries the script and measures nothing")
    steps = f"{options.steps} steps of {options.batch} pairs"
    print(f"{steps}; last losses and mean recall of the photos trained on, per cent:")
    print("\n".join(starmap("{:8} {:.4f} {:6.2f}".format, ((n, found[n][-1], recalls[n]) for n in jobs))))
    print(f"the loss of fp8 differs by {difference:.4f} on average; half the spread of bf16's seeds is {spread:.4f}")
    record(
        f"fp8 beside bf16, {options.seeds} seeds", f"{steps}, rows of {EVERY} steps",
        values={"difference": difference, "half_spread": spread,
                **{f"recall_{name}": value for name, value in recalls.items()}},
    )  # fmt: skip


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fp8_training", description=__doc__)
    parser.add_argument("--photos", type=Path, help="folder of JPEGs with captions.jsonl; none: pictures of noise")
    parser.add_argument("--vocabulary", type=Path, help="BERT's vocab.txt; none: one is made")
    parser.add_argument("--work", type=Path, help="where data, weights and runs are made, and deleted")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=64, help="pairs a step")
    parser.add_argument("--seeds", type=int, default=4, help="runs in bf16")
    parser.add_argument("--tiny", action="store_true", help="toy shapes on the CPU, bf16 in place of fp8, to try it")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
