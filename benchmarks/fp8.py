"""An image encoder in eight bits beside one in bf16: `python -m benchmarks.fp8`. Needs a Hopper GPU.

First the frozen ViT-g/14 alone with random weights, as they are and with outliers like those of published encoders.
Errors are relative to the same weights in fp32: of all channels, of all but the massive ones, which would hide the
rest, and of those less their mean over tokens and pictures. Then stage one's step at full size, as `benchmarks.stage1`.

massive   Three channels of every token start 60 to 120 times larger than the rest, in the first token three times that.
channels  In every norm four channels have 50 to 100 times the gain. The weights that read them are as much smaller, in
          every second block by the square root of it only.
hidden    In every MLP four channels are 30 times larger.
"""

import argparse
import time
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from benchmarks.rates import product_rate
from benchmarks.stage1 import FULL, HEADER, VOCABULARY, batches, build_objective, engine_step, measure, still_held
from vglm_train import distributed
from vglm_train.config.model import Vision
from vglm_train.model.flops import flops_per_pair
from vglm_train.model.vision import DTYPES
from vglm_train.model.vision.base import VisionEncoder
from vglm_train.model.vision.eva import EvaVit

COMPARED = 8  # pictures that fp32 encodes as well
Dtype = Literal["bf16", "fp8"]


@torch.no_grad()
def build(shape: Vision, device: torch.device) -> EvaVit:
    """In fp32, to become one of `shape.dtype`. Random weights, with gains and biases that are not all one and zero."""
    torch.manual_seed(0)
    with device:
        encoder = EvaVit(shape)
    for parameter in encoder.parameters():
        if parameter.dim() == 1:
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return encoder


@torch.no_grad()
def plant(encoder: EvaVit) -> EvaVit:
    """All outliers."""
    generator, device = torch.Generator().manual_seed(1), encoder.positions.device

    def some(size: int, count: int) -> Tensor:
        return torch.randperm(size, generator=generator)[:count].to(device)

    massive = some(encoder.positions.shape[1], 3)
    encoder.positions[:, massive] += torch.tensor([30.0, -45.0, 60.0], device=device)
    encoder.positions[0, massive] *= 3
    for number, block in enumerate(encoder.blocks):
        for norm, reader in ((block.norm1, block.attention.qkv), (block.norm2, block.mlp.up)):
            chosen, larger = some(len(norm.weight), 4), 50 + 50 * torch.rand(4, generator=generator).to(device)
            norm.weight[chosen] *= larger
            norm.bias[chosen] *= larger
            reader.weight[:, chosen] /= larger.sqrt() if number % 2 else larger
        block.mlp.up.weight[some(block.mlp.up.out_features, 4)] *= 30
    return encoder


def milliseconds(encoder: VisionEncoder, pixels: Tensor, times: int) -> float:
    """Of one forward, after a warm-up."""
    for _ in range(4):
        encoder(pixels)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        encoder(pixels)
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start) / times


def errors(found: Tensor, exact: Tensor) -> list[float]:
    """See above. found, exact: [n,p,c]."""
    magnitude = exact.abs().amax((0, 1))
    kept = magnitude < 20 * magnitude.median()
    mean = exact.mean((0, 1))
    pairs = (found, exact), (found[..., kept], exact[..., kept]), ((found - mean)[..., kept], (exact - mean)[..., kept])
    return [((a - b).norm() / b.norm()).item() for a, b in pairs]


def tower(dtype: Dtype, planted: bool, batch: int, device: torch.device) -> str:
    """A line of the first table."""
    shape = Vision(dtype=dtype)
    encoder = build(shape, device)
    encoder = plant(encoder) if planted else encoder
    pixels = torch.randn(batch, 3, shape.image_size, shape.image_size, device=device)
    with torch.no_grad():
        exact = encoder(pixels[:COMPARED])
    frozen = VisionEncoder(encoder, shape.width, encoder.num_patches, DTYPES[dtype])
    took, found = milliseconds(frozen, pixels, 10), frozen(pixels[:COMPARED]).float()
    said = "  ".join(f"{error:.4f}" for error in errors(found, exact))
    kind = "with outliers" if planted else "without"
    return f"{dtype:4} {kind:13} {took:7.2f} ms  {1e3 * batch / took:6.0f} images/s  errors {said}"


def stage_one(dtype: Dtype, batch: int, steps: int, rate: float, device: torch.device) -> str:
    """A line of the second table."""
    config = replace(FULL, vision=replace(FULL.vision, dtype=dtype))
    floor = batch * flops_per_pair(config, VOCABULARY) / rate
    data, held = batches(config, batch, 4, device), still_held(device)
    objective = build_objective(config, device, compiled=False)
    step = engine_step(objective, device)
    objective.model.graph_passes()  # as train.py does
    return measure(f"stage one, {dtype}", step, data, steps, floor, held=held).row()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fp8", description=__doc__)
    parser.add_argument("--batch", type=int, default=100, help="pictures, pairs a step")
    parser.add_argument("--steps", type=int, default=20, help="steps measured")
    args = parser.parse_args()
    device = distributed.start(grow=True).device
    rate = product_rate(device)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {rate / 1e12:.0f} TFLOP/s in bf16 products")
    dtypes: tuple[Dtype, ...] = ("bf16", "fp8")
    for planted in (False, True):
        for dtype in dtypes:
            print(tower(dtype, planted, args.batch, device), flush=True)
    print(HEADER)
    for dtype in dtypes:
        print(stage_one(dtype, args.batch, args.steps, rate, device), flush=True)


if __name__ == "__main__":
    main()
