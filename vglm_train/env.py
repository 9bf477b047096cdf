"""What this machine has: `vglm env`. It also works, and says so, where packages or GPUs are missing."""

import argparse
import ctypes
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

from vglm_train.command import program, run_command

GIB = 2**30
BACKBONE = ("torch", "transformers", "tokenizers", "huggingface-hub", "numpy", "pillow", "simplejpeg", "pyyaml",
            "safetensors", "tqdm", "sentencepiece", "protobuf")  # fmt: skip
EXTRAS = {
    "chat": ("gradio", "fastapi", "uvicorn", "sse-starlette", "prometheus-client", "python-multipart", "einops",
             "requests", "httpcore"),
    "dicom": ("pydicom", "python-gdcm", "pyjpegls", "pylibjpeg", "pylibjpeg-openjpeg"),
    "eval": ("pycocoevalcap", "nltk", "jieba", "rouge-chinese", "sacrebleu"),
    "train": ("deepspeed", "SwissArmyTransformer", "datasets", "webdataset", "wandb", "psutil", "matplotlib",
              "requests", "urllib3", "braceexpand"),
    "workspace": ("wandb", "wandb-workspaces"),
}  # fmt: skip
"""What the extras of pyproject.toml bring."""
SAT = 'pip install --no-deps "SwissArmyTransformer>=0.4.12,<0.5"'
# purpose -> packages, and the command that installs them
PURPOSES: dict[str, tuple[tuple[str, ...], str]] = {
    "everything": (BACKBONE, "pip install vglm_train; https://pytorch.org says which torch fits the GPU driver"),
    "chatting with ChatGLM": (("SwissArmyTransformer", "einops", "requests"),
                              f'pip install "vglm_train[chat]", then {SAT}'),
    "serving and the web page": (EXTRAS["chat"], 'pip install "vglm_train[chat]"'),
    "reading DICOM": (EXTRAS["dicom"], 'pip install "vglm_train[dicom]"'),
    "quantising": (("triton",), "a CUDA build of torch brings it on Linux; without it, answers come more slowly"),
    "scoring texts": (EXTRAS["eval"], 'pip install "vglm_train[eval]"'),
    "training": (EXTRAS["train"], 'pip install "vglm_train[train]"'),
    "W&B workspaces": (EXTRAS["workspace"], 'pip install "vglm_train[workspace]"'),
}  # fmt: skip
# language model -> numbers in the matrices of its blocks, which can be quantised, and others
SIZES = {
    "ChatGLM-6B": (5_637_144_576, 1_070_784_512),
    "OPT-2.7B": (2_516_582_400, 135_096_320),
    "Flan-T5-XL": (2_717_911_040, 131_846_144),
}
IMAGE_SIDE = 2 * 985_949_440 + 4 * 108_314_880  # bytes: EVA ViT-g in 16 bits, the Q-Former and projection in 32
BYTES = {"fp16": 2.0, "int8": 1.0, "int4": 0.5 + 2 / 64}  # of a number; int4 has a scale of two bytes for 64
WORKING = 2 * GIB  # CUDA's context, the cache of one conversation of 2,048 tokens, and what a step computes


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU. Bytes."""

    name: str
    total: int
    used: int
    free: int


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether a model of stage two fits."""

    model: str
    form: str
    needs: int  # bytes
    fits: bool


def environment() -> dict[str, Any]:
    """All that `vglm env --json` prints. Sizes in bytes; None: it is not there, or cannot be told."""
    torch, torch_error = _torch()
    cuda = torch is not None and torch.cuda.is_available()
    cards = _cards(torch if cuda else None)
    memory = _memory()
    largest = max((card.free for card in cards), default=None)
    return {
        "python": platform.python_version(), "executable": sys.executable, "system": platform.platform(),
        "torch_error": torch_error, "cuda": torch.version.cuda if torch else None, "cuda_usable": cuda,
        "cudnn": torch.backends.cudnn.version() if torch and cuda else None,
        "nccl": _nccl(torch) if torch and cuda else None, "mps": bool(torch and torch.backends.mps.is_available()),
        "driver": _driver(), "gpus": [asdict(card) for card in cards], "cores": _cores(), "ram": memory,
        "disk_free": shutil.disk_usage(".").free,
        "versions": {name: installed(name) for name in dict.fromkeys((*BACKBONE, *sum(EXTRAS.values(), ())))},
        "missing": {purpose: {"packages": absent, "install": command} for purpose, (needed, command) in PURPOSES.items()
                    if (cards or purpose != "quantising")
                    and (absent := [name for name in needed if installed(name) is None])},
        "fits": [asdict(fit) for fit in fits(memory if largest is None else largest)],
    }  # fmt: skip


def fits(free: int | None) -> list[Fit]:
    """The models that people chat with, each in three forms, against so many bytes."""
    found = []
    for model, (blocks, others) in SIZES.items():
        for form, width in BYTES.items():
            needs = round(blocks * width + 2 * others) + IMAGE_SIDE + WORKING
            found.append(Fit(model, form, needs, free is not None and needs <= free))
    return found


def installed(name: str) -> str | None:
    """The version of a distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def main(argv: Sequence[str] | None = None) -> int:
    """Print what there is. Exit status 1 if something that every command needs is missing."""
    parser = argparse.ArgumentParser(prog=program("vglm_train.env"), description="What this machine has.")
    parser.add_argument("--json", action="store_true", help="as JSON, sizes in bytes")
    args = parser.parse_args(argv)
    return run_command(lambda: _print(args.json))


def _print(as_json: bool) -> int:
    found = environment()
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        rows = _rows(found)
        width = max(len(name) for name, _ in rows)
        print("\n".join(f"{name:<{width}}  {value}" for name, value in rows))
        print("\n".join(["", *_missing(found), "", *_fitting(found)]))
    return int("everything" in found["missing"])


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("python", f"{found['python']} at {found['executable']}"), ("system", found["system"])]
    rows += [("CUDA", found["cuda"] or "none in this torch"), ("cuDNN", str(found["cudnn"] or "not used"))]
    rows.append(("NCCL", found["nccl"] or "not used"))
    rows.append(("driver", found["driver"] or "not found (no nvidia-smi that works)"))
    if found["torch_error"] is not None and found["versions"]["torch"] is not None:
        rows.append(("torch", f"installed, but cannot be imported: {found['torch_error']}"))
    for number, card in enumerate(found["gpus"]):
        sizes = f"{_gib(card['total'])}, {_gib(card['used'])} used, {_gib(card['free'])} free"
        rows.append((f"GPU {number}", f"{card['name']}, {sizes}"))
    if found["gpus"] and not found["cuda_usable"]:
        rows.append(("GPU", "not usable: torch is missing, a CPU build, or built for a newer driver"))
    elif not found["gpus"]:
        rows.append(("GPU", "Apple's, which shares the RAM" if found["mps"] else "none that torch can use"))
    ram = "unknown" if found["ram"] is None else _gib(found["ram"])
    rows += [("CPU cores", str(found["cores"])), ("RAM", ram), ("disk, free here", _gib(found["disk_free"]))]
    return rows + [(name, number or "not installed") for name, number in found["versions"].items()]


def _missing(found: dict[str, Any]) -> list[str]:
    """A line for each purpose."""
    lines = []
    for purpose in PURPOSES:
        absent = found["missing"].get(purpose)
        what = f"missing: {', '.join(absent['packages'])}. {absent['install']}" if absent else "all there"
        lines.append(f"for {purpose}: {what}")
    return lines


def _fitting(found: dict[str, Any]) -> list[str]:
    """A line for each model, and where the numbers come from."""
    free = max((card["free"] for card in found["gpus"]), default=None)
    where = f"the {_gib(free)} free on the largest GPU" if free is not None else "the RAM, as there is no GPU"
    lines = [f"What fits {where}, to chat with:"]
    for model in SIZES:
        forms = [fit for fit in found["fits"] if fit["model"] == model]
        shown = ", ".join(
            f"{fit['form']} {_gib(fit['needs'])} {'fits' if fit['fits'] else 'too large'}" for fit in forms
        )
        lines.append(f"  {model}: {shown}")
    lines.append(
        f"  Computed, not measured: weights by their number and width, {_gib(IMAGE_SIDE)} for EVA ViT-g and Q-Former, "
        f"and {_gib(WORKING)} for CUDA and one conversation of 2,048 tokens."
    )
    return lines


def _torch() -> tuple[ModuleType | None, str | None]:
    """With why it cannot be imported."""
    try:
        return import_module("torch"), None
    except (ImportError, OSError) as error:  # OSError: a CUDA library that does not load
        return None, str(error)


def _cards(torch: ModuleType | None) -> list[Card]:
    """Those that torch may use; without a torch that can, those that the driver knows."""
    if torch is not None:
        cards = []
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            cards.append(Card(torch.cuda.get_device_name(index), total, total - free, free))
        return cards
    cards = []
    for line in _smi("name,memory.total,memory.used,memory.free"):
        name, *sizes = line.rsplit(",", 3)
        if len(sizes) == 3 and all(size.strip().isdigit() for size in sizes):
            cards.append(Card(name.strip(), *(int(size) << 20 for size in sizes)))
    return cards


def _nccl(torch: ModuleType) -> str | None:
    """None but on Linux, where alone torch has it."""
    return ".".join(map(str, torch.cuda.nccl.version())) if sys.platform == "linux" else None


def _driver() -> str | None:
    return next(iter(_smi("driver_version")), None)


def _smi(query: str) -> list[str]:
    """A line of NVIDIA's nvidia-smi for each GPU; none where it is not there or fails."""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []


def _cores() -> int:
    """Cores this process may use: fewer than the machine has under Slurm or in a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> int | None:
    """Bytes of RAM."""
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    windows = getattr(ctypes, "windll", None)
    if windows is None:
        return None
    kilobytes = ctypes.c_ulonglong()
    windows.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kilobytes))
    return kilobytes.value << 10


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


if __name__ == "__main__":
    sys.exit(main())
