"""Speed and error of the frozen ViT-g/14, plain, fused and in eight bits: `python -m benchmarks.vision`. Needs a GPU.

Random weights and pictures, then weights with outliers as published encoders have them. Errors are against the same
weights in fp32.

massive   three channels of every token 30 to 60 times larger than the rest, of the first token three times that.
channels  in every norm four channels with 50 to 100 times the gain. The weights that read them are as much smaller,
          or by the square root of it in every second block.
hidden    in every MLP four channels 30 times larger.
"""

import argparse
import time
from typing import Literal
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.stage1 import product_rate
from vglm_train.config.model import Vision
from vglm_train.model.vision import DTYPES, fused
from vglm_train.model.vision.base import VisionEncoder
from vglm_train.model.vision.eva import EvaVit

Dtype = Literal["bf16", "fp16", "fp8"]
COMPARED = 8  # pictures that fp32 encodes as well


def build(dtype: Dtype, device: torch.device) -> EvaVit:
    """In fp32, to become one of `dtype`. Random weights, with gains and biases that are not all one and zero."""
    torch.manual_seed(0)
    with device:
        encoder = EvaVit(Vision(dtype=dtype))
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return encoder


@torch.no_grad()
def plant(encoder: EvaVit) -> EvaVit:
    """All outliers, into an encoder in fp32."""
    generator = torch.Generator().manual_seed(1)
    device = encoder.positions.device

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


def measure(name: str, dtype: Dtype, planted: bool, pixels: Tensor, times: int) -> str:
    """A line of the table. Errors are of all channels; of those that are not massive; of what differs among tokens."""
    encoder = build(dtype, pixels.device)
    encoder = plant(encoder) if planted else encoder
    with torch.no_grad():
        exact = encoder(pixels[:COMPARED])
    tower = VisionEncoder(encoder, Vision().width, encoder.num_patches, DTYPES[dtype])
    took, found = milliseconds(tower, pixels, times), tower(pixels[:COMPARED]).float()
    magnitude = exact.abs().amax((0, 1))
    kept = magnitude < 20 * magnitude.median()
    mean = exact.mean((0, 1))
    pairs = (exact, found), (exact[..., kept], found[..., kept]), ((exact - mean)[..., kept], (found - mean)[..., kept])
    errors = "  ".join(f"{((b - a).norm() / a.norm()).item():.5f}" for a, b in pairs)
    least = F.cosine_similarity(found, exact, dim=-1).min().item()
    speed = 1e3 * pixels.shape[0] / took
    return f"{name:12} {took:7.2f} ms  {speed:6.0f} images/s  error {errors}  least cosine of a token {least:.6f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vision", description=__doc__)
    parser.add_argument("--batch", type=int, default=100, help="pictures")
    parser.add_argument("--times", type=int, default=10, help="forwards that are measured")
    args = parser.parse_args()
    device = torch.device("cuda")
    rate = product_rate(device)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {rate / 1e12:.0f} TFLOP/s in bf16 products")
    pixels = torch.randn(args.batch, 3, Vision().image_size, Vision().image_size, device=device)
    for planted in (False, True):
        print("with outliers" if planted else "without outliers")
        for dtype in ("bf16", "fp16"):
            with patch.object(fused, "fuses", lambda _: False):
                print(measure(f"{dtype}, plain", dtype, planted, pixels, args.times), flush=True)
            print(measure(f"{dtype}, fused", dtype, planted, pixels, args.times), flush=True)
        print(measure("fp8", "fp8", planted, pixels, args.times), flush=True)


if __name__ == "__main__":
    main()
