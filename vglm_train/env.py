"""What this machine has: `python -m vglm_train.env`. It also works, and says so, where packages or GPUs are missing."""

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from vglm_train.command import program, run_command

GIB = 2**30
BACKBONE = (
    "deepspeed", "SwissArmyTransformer", "transformers", "tokenizers", "huggingface-hub", "datasets", "webdataset",
    "wandb", "numpy", "pillow", "pyyaml", "safetensors", "tqdm", "sentencepiece", "protobuf",
    "matplotlib", "requests", "urllib3", "braceexpand",
)  # fmt: skip
INSTALL = {
    "torch": "https://pytorch.org/get-started/locally says which build fits the GPU driver",
    "deepspeed": "DS_BUILD_OPS=0 pip install --no-build-isolation deepspeed, after torch",
}


def environment() -> list[tuple[str, str]]:
    """(name, value) of what matters when training fails or is slow; a value starts with "missing" if it is needed."""
    torch = _torch()
    rows = [("python", f"{platform.python_version()} at {sys.executable}"), ("system", platform.platform())]
    rows.append(("torch", str(torch.__version__) if torch else _missing("torch")))
    rows += _gpus(torch)
    rows += [("CPU cores", str(_cores())), ("RAM", _gib(_memory()))]
    rows.append(("disk, free here", _gib(shutil.disk_usage(".").free)))
    return rows + [(name, installed(name)) for name in BACKBONE]


def installed(name: str) -> str:
    """The version of a distribution, or how to get it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return _missing(name)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table. Exit status 1 if something needed is missing."""
    argparse.ArgumentParser(prog=program("vglm_train.env"), description="What this machine has.").parse_args(argv)
    return run_command(_print)


def _print() -> int:
    rows = environment()
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    return int(any(value.startswith("missing") for _, value in rows))


def _missing(name: str) -> str:
    return f"missing: {INSTALL.get(name, f'pip install {name}')}"


def _torch() -> ModuleType | None:
    try:
        return import_module("torch")
    except (ImportError, OSError):  # OSError: a CUDA library that does not load
        return None


def _gpus(torch: ModuleType | None) -> list[tuple[str, str]]:
    if torch is None or not torch.cuda.is_available():
        built = torch.version.cuda if torch else None
        why = f"torch is built for CUDA {built}, but finds no device" if built else "torch is a CPU build"
        return [("GPU", f"none that torch can use ({why if torch else 'no torch'}); driver {_driver()}")]
    rows = [("CUDA", f"{torch.version.cuda}, driver {_driver()}"), ("cuDNN", str(torch.backends.cudnn.version()))]
    rows.append(("NCCL", ".".join(map(str, torch.cuda.nccl.version()))))
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        rows.append((f"GPU {index}", f"{torch.cuda.get_device_name(index)}, {_gib(total)}, {_gib(free)} free"))
    return rows


def _driver() -> str:
    """NVIDIA's driver version from nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        versions = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return "not found (no nvidia-smi that works)"
    return versions[0] if versions else "without devices"


def _cores() -> int:
    """Cores this process may use: fewer than the machine has under Slurm or in a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


if __name__ == "__main__":
    sys.exit(main())
