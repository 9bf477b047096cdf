"""Memory and speed of the configurations for fine-tuning at full size: `python -m benchmarks.recipes`.

Each of configs/finetune/xray_*.yaml as it stands: what trains, how many rows run at once, precision and recompute, its
longest rows (image, prompt.max_prompt, prompt.max_answer; nothing padded). The model has random weights and the shape
of the bundle that the configuration begins with. Every one has a process of its own; the exit status is 1 if any
failed. Run it where the project's `configs/` is found.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.finetune import build_objective, gib, reset_peak
from benchmarks.stage1 import measure
from benchmarks.stage2 import Journal, batches, engine_step
from benchmarks.stage2_cases import FLAN_T5, ROOT, VISUALGLM, Case, configure
from vglm_train import distributed
from vglm_train.config.batch_split import split
from vglm_train.config.load import load
from vglm_train.config.run import Config
from vglm_train.config.tuning import Lora
from vglm_train.engine.deepspeed_engine import DeepSpeedEngine

OPT = "configs/pretrain/blip2_paper_stage2_opt.yaml"
SHAPES = {"chatglm": VISUALGLM, "opt": OPT, "flan_t5": FLAN_T5}
NAMES = sorted(path.stem for path in (ROOT / "configs/finetune").glob("xray_*.yaml"))
HEADER = f"{'':32} {'trained':>12} {'rows':>9} {'tokens':>6} {'GiB held':>9} {'peak GiB':>9} {'samples/s':>9}"
TINY_LAYERS = (0, 1)


def read(name: str, tiny: bool, folder: Path) -> tuple[Config, Case]:
    """The configuration with the model that its bundle would bring, and its longest rows.

    `folder` takes the config.json of a toy shape.
    """
    own = load(ROOT / f"configs/finetune/{name}.yaml", ["model.bundle=null"])
    preset = next(preset for word, preset in SHAPES.items() if word in name)
    long = (2, 4) if tiny else (own.prompt.max_prompt, own.prompt.max_answer)
    dtype = load(ROOT / preset).model.vision.dtype
    case = Case(preset, dtype, own.data.global_batch, *long, recompute=False, others="")
    base = configure(case, None, tiny, folder)
    tuning = own.tuning
    if tiny and tuning.lora:
        tuning = replace(tuning, lora=Lora(rank=2, layers=TINY_LAYERS, targets=tuning.lora.targets))
    return replace(own, model=base.model, tuning=tuning), case


def run(name: str, arguments: argparse.Namespace) -> None:
    """Build one model, take its steps, print a line."""
    ranks = distributed.start()
    device = ranks.device
    reset_peak(device)
    with tempfile.TemporaryDirectory() as folder:
        config, case = read(name, arguments.tiny, Path(folder))
        objective = build_objective(config, config.tuning, ranks, None)
    model = objective.model
    model.recompute(config.engine.recompute)
    held, _ = gib(device)
    share = split(config, ranks.world)
    engine = DeepSpeedEngine(objective, config, share.accumulation, ranks)
    data = batches(config, case, model, 1)
    trained = sum(p.numel() for _, p in model.trained_parameters())
    values = {"trained": trained, "rows_at_once": share.micro, "tokens": data[0].input_ids.shape[1], "held_gib": held}
    step = engine_step(objective, engine, Journal())
    result = measure(name, step, data, arguments.steps, float("nan"), values)
    rows, tokens = f"{share.accumulation} x {share.micro}", data[0].input_ids.shape[1]
    speed = result.pairs / result.seconds
    print(f"{name:32} {trained:12,} {rows:>9} {tokens:6} {held:9.1f} {result.gib:9.1f} {speed:9.1f}", flush=True)
    distributed.stop()


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="what to measure")
    parser.add_argument("--steps", type=int, default=3, help="steps measured")
    parser.add_argument("--tiny", action="store_true", help="toy shapes, to try the script")
    parser.add_argument("--single", choices=NAMES, help=argparse.SUPPRESS)  # one of them, in this process
    arguments = parser.parse_args(argv)
    if arguments.single:
        run(arguments.single, arguments)
        return 0
    print(HEADER, flush=True)
    failed = 0
    for name in arguments.only:
        command = [sys.executable, "-m", "benchmarks.recipes", *argv, "--single", name]
        if subprocess.run(command, check=False, env=dict(os.environ), cwd=ROOT).returncode:
            print(f"{name}: failed", flush=True)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
