"""Speed and error of the frozen ViT-g/14, plain and fused: `python -m benchmarks.vision`. Needs a GPU.

Random weights and pictures. Errors are against the same weights in fp32. The floor is the encoder's arithmetic at the
rate of a large bf16 product measured in the same run.
"""

import argparse
import time
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.stage1 import product_rate
from vglm_train.config.model import Vision
from vglm_train.model.vision import fused
from vglm_train.model.vision.base import VisionEncoder
from vglm_train.model.vision.eva import EvaVit

COMPARED = 8  # pictures that fp32 encodes as well


def build(device: torch.device) -> EvaVit:
    """Random weights, with gains and biases that are not all one and zero."""
    torch.manual_seed(0)
    with device:
        encoder = EvaVit(Vision())
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vision", description=__doc__)
    parser.add_argument("--batch", type=int, default=100, help="pictures")
    parser.add_argument("--times", type=int, default=10, help="forwards that are measured")
    args = parser.parse_args()
    device = torch.device("cuda")
    rate = product_rate(device)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {rate / 1e12:.0f} TFLOP/s in bf16 products")
    shape = Vision()
    for dtype in (torch.bfloat16, torch.float16):
        encoder = build(device)
        pixels = torch.randn(args.batch, 3, shape.image_size, shape.image_size, device=device)
        with torch.no_grad():
            exact = encoder(pixels[:COMPARED])
        tower = VisionEncoder(encoder, shape.width, encoder.num_patches, dtype)
        for name, fuses in (("plain", lambda _: False), ("fused", fused.fuses)):
            with patch.object(fused, "fuses", fuses):
                took = milliseconds(tower, pixels, args.times)
                found = tower(pixels[:COMPARED]).float()
            error = ((found - exact).norm() / exact.norm()).item()
            least = F.cosine_similarity(found, exact, dim=-1).min().item()
            print(
                f"{str(dtype)[6:]:9} {name}  {took:7.2f} ms  {1e3 * args.batch / took:6.0f} images/s  "
                f"relative error {error:.5f}  least cosine of a token {least:.6f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
