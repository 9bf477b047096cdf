"""What the machine of a benchmark is, as one line of JSON: `python -m benchmarks.machine`.

`vglm benchmark` runs it in a process of its own, because whoever asks CUDA keeps some of the card's memory.
"""

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.rates import copy_rate, product_rate
from benchmarks.result_file import Machine
from vglm_train.env import GIB, environment, installed

VERSIONS = ("torch", "transformers", "deepspeed", "triton")


def describe(tiny: bool) -> dict[str, Any]:
    """The machine, and the GPU memory and RAM that are free now in GiB (`free_gib`)."""
    found = environment()
    tiny = tiny or not found["cuda_usable"]
    device = torch.device("cpu" if tiny else "cuda")
    card = found["gpus"][0] if device.type == "cuda" else None
    machine = Machine(
        card=card and card["name"],
        card_gib=card and round(card["total"] / GIB, 1),
        driver=found["driver"],
        cuda=found["cuda"],
        cpu=cpu_name(),
        cores=found["cores"],
        ram_gib=found["ram"] and round(found["ram"] / GIB, 1),
        product_tflops=float(f"{product_rate(device) / 1e12:.4g}"),
        copy_tb_s=float(f"{copy_rate(device, tiny) / 1e12:.4g}"),
        versions={"python": platform.python_version(), **{name: installed(name) for name in VERSIONS}},
    )
    return {**asdict(machine), "free_gib": card and card["free"] / GIB}


def cpu_name() -> str:
    """As Linux tells it; elsewhere as Python does."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.machine", description=__doc__.partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="the CPU alone; without a GPU always")
    print(json.dumps(describe(parser.parse_args(argv).tiny)))


if __name__ == "__main__":
    main()
