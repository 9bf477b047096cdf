"""Speed and error of the frozen ViT-g/14, plain, fused, and as a CUDA graph: `python -m benchmarks.vision`.

Random weights and pictures. Errors are against the same weights in fp32. The floor is the encoder's arithmetic at the
rate of a large bf16 product measured in the same run. Without a GPU there is nothing to fuse.
"""

import argparse
import time
from collections.abc import Sequence
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.rates import product_rate, wait
from benchmarks.record import record
from vglm_train.config.model import Vision
from vglm_train.model.flops import vision_flops
from vglm_train.model.vision import fused
from vglm_train.model.vision.base import VisionEncoder
from vglm_train.model.vision.eva import EvaVit

TINY = Vision(image_size=28, patch=14, width=32, depth=1, heads=2, mlp_width=64)
COMPARED = 8  # pictures that fp32 encodes as well


def build(shape: Vision, device: torch.device) -> EvaVit:
    """Random weights, with gains and biases that are not all one and zero."""
    torch.manual_seed(0)
    with device:
        encoder = EvaVit(shape)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return encoder


def milliseconds(encoder: VisionEncoder, pixels: Tensor, times: int) -> float:
    """Of one forward, after a warm-up."""
    for _ in range(min(4, times)):
        encoder(pixels)
    wait(pixels.device)
    start = time.perf_counter()
    for _ in range(times):
        encoder(pixels)
    wait(pixels.device)
    return 1e3 * (time.perf_counter() - start) / times


def compare(dtype: torch.dtype, shape: Vision, args: argparse.Namespace, device: torch.device, rate: float) -> None:
    """All variants in one precision; prints as it goes."""
    encoder = build(shape, device)
    pixels = torch.randn(args.batch, 3, shape.image_size, shape.image_size, device=device)
    with torch.no_grad():
        exact = encoder(pixels[:COMPARED])
    tower = VisionEncoder(encoder, shape.width, encoder.num_patches, dtype)
    variants = [("plain", lambda _: False, False)]
    if device.type == "cuda":
        variants += [("fused", fused.fuses, False), ("recorded", fused.fuses, True)]
    for name, fuses, recorded in variants:
        tower.recorder.on = recorded
        with patch.object(fused, "fuses", fuses):
            took = milliseconds(tower, pixels, args.times)
            if recorded and not len(tower.recorder):
                continue  # so many pictures are not launched slower than they run
            found = tower(pixels[:COMPARED]).float()
        error = ((found - exact).norm() / exact.norm()).item()
        least = F.cosine_similarity(found, exact, dim=-1).min().item()
        print(
            f"{str(dtype)[6:]:9} {name}  {took:7.2f} ms  {1e3 * args.batch / took:6.0f} images/s  "
            f"relative error {error:.5f}  least cosine of a token {least:.6f}",
            flush=True,
        )
        record(
            f"{str(dtype)[6:]} {name}", f"mean of {args.times} forwards of {args.batch} pictures after a warm-up",
            samples_per_s=1e3 * args.batch / took, ms=took, floor_ms=1e3 * args.batch * vision_flops(shape) / rate,
            values={"relative_error": error, "least_cosine": least},
        )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vision", description=__doc__)
    parser.add_argument("--batch", type=int, default=100, help="pictures")
    parser.add_argument("--times", type=int, default=10, help="forwards that are measured")
    parser.add_argument("--tiny", action="store_true", help="a toy shape, to try the script")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    rate = product_rate(device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {rate / 1e12:.2f} TFLOP/s in bf16 products")
    for dtype in (torch.bfloat16, torch.float16):
        compare(dtype, TINY if args.tiny else Vision(), args, device, rate)


if __name__ == "__main__":
    main()
