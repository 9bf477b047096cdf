"""Image encoders of other shapes beside ViT-g/14: `python -m benchmarks.encoders --single rad-dino`.

Of each: the frozen encoder alone, and a whole step of stage one behind it, with random weights and pictures. The floors
are their arithmetic at the rate of a large bf16 product measured in the same run.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from benchmarks import stage1
from benchmarks.rates import product_rate
from benchmarks.stage1 import HEADER, VOCABULARY, measure
from vglm_train import distributed
from vglm_train.config.model import Model, Vision
from vglm_train.model.flops import flops_per_pair, image_tokens, vision_flops
from vglm_train.weights.encoders import read_shape

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "vision"
FOLDERS = {"vit-g": None, "rad-dino": "rad-dino", "siglip2-so400m": "siglip2-so400m-384"}


def shape_of(name: str, tiny: bool) -> Model:
    """BLIP-2's stage one behind that encoder. tiny: two blocks, at a size of a few tokens."""
    folder = FOLDERS[name]
    base = stage1.TINY if tiny else stage1.FULL
    if folder is None:
        return base
    shape = read_shape(CONFIGS / folder)
    vision = Vision(family="auto", config=str(CONFIGS / folder), **asdict(shape))
    return replace(base, vision=replace(vision, depth=2, image_size=2 * vision.patch) if tiny else vision)


def run(args: argparse.Namespace) -> None:
    """Measure the encoder, then the step; prints as it goes."""
    if args.cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    device = distributed.start(grow=True).device  # before the GPU's first use, as train.py does
    config, rate = shape_of(args.single, args.tiny), product_rate(device)
    tokens, encoder = image_tokens(config.vision), vision_flops(config.vision)
    whole = flops_per_pair(config, VOCABULARY)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(
        f"{name}, torch {torch.__version__}, {rate / 1e12:.2f} TFLOP/s in bf16 products\n"
        f"{args.single}: {tokens} tokens of "
        f"{config.vision.width} channels, {encoder / 1e9:.1f} GFLOP a picture, {whole / 1e9:.1f} a pair\n{HEADER}",
        flush=True,
    )
    objective = stage1.build_objective(config, device, compiled=False)
    data = stage1.batches(config, args.batch, 2, device)
    values = {"tokens": float(tokens)}
    floor = args.batch * encoder / rate
    alone = measure("encoder alone", lambda batch: discard(objective, batch), data, args.steps, floor, values)
    print(alone.row(), flush=True)
    step = stage1.engine_step(objective, device)
    print(measure("stage one", step, data, args.steps, args.batch * whole / rate, values).row(), flush=True)


def discard(objective: stage1.AlignmentObjective, batch: stage1.PairBatch) -> None:
    objective.model.encode_image(batch.pixels)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoders", description=__doc__)
    parser.add_argument("--single", choices=tuple(FOLDERS), required=True, help="which encoder")
    parser.add_argument("--batch", type=int, default=64, help="pairs a step")
    parser.add_argument("--steps", type=int, default=20, help="steps measured")
    parser.add_argument("--tiny", action="store_true", help="two blocks and a few tokens, to try the script")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    run(parser.parse_args(argv))


if __name__ == "__main__":
    main()
