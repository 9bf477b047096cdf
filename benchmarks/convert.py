"""Time and memory of conversions: a synthetic VisualGLM in the hub's layout to a bundle, and on to a SAT folder.

`python -m benchmarks.convert --work FOLDER [--billions 7.8]`. The full size takes 47 GB of disk. What counts is
anonymous memory (RssAnon): pages of mapped files go when others need them.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.record import record
from vglm_train.checkpoint.convert.source import expected
from vglm_train.checkpoint.convert.visualglm import hub_table
from vglm_train.checkpoint.load.lazy_tensors import Lazy, convert, of_tensors
from vglm_train.config.language import Language
from vglm_train.config.model import Model
from vglm_train.config.run import Config, Run

HEADS = {"eva_args": 16, "qformer_args": 12, "": 32}
LAYER = 201_379_840  # parameters of a block of ChatGLM-6B
PART = 2 * 10**9  # bytes of a file, as published
TOOL = (sys.executable, "-m", "vglm_train.checkpoint")


@dataclass(frozen=True)
class Result:
    what: str
    seconds: float
    anonymous: int  # bytes, peak
    written: int

    def record(self) -> None:
        """Leave it for `vglm benchmark`."""
        values = {"seconds": self.seconds, "anonymous_gib": self.anonymous / 2**30, "written_gib": self.written / 2**30}
        record(self.what, "one conversion by the clock", values=values)

    def row(self) -> str:
        rate = self.written / self.seconds / 2**20
        return (
            f"| {self.what} | {self.seconds:.0f} | {rate:.0f} | {self.anonymous / 2**30:.2f} | "
            f"{self.written / 2**30:.1f} |"
        )


def make(folder: Path, layers: int) -> float:
    """A folder in the hub's layout with random fp16 numbers in .bin files. Returns billions of parameters."""
    language = Language(layers=layers, dtype="fp16", tokenizer="none")
    model = Model(language=language)
    config = Config(
        run=Run(name="x", stage="generate"), model=replace(model, vision=replace(model.vision, dtype="fp16"))
    )
    names = convert(hub_table(12, HEADS).inverse(), of_tensors(expected(config).state_dict()))
    folder.mkdir(parents=True)
    parts: list[dict[str, Lazy]] = [{}]
    for name, tensor in names.items():
        if parts[-1] and sum(t.meta.numel() for t in parts[-1].values()) * 2 > PART:
            parts.append({})
        parts[-1][name] = tensor
    noise = (0.02 * torch.randn(2**24, generator=torch.Generator().manual_seed(0))).half()
    index = {}
    for number, part in enumerate(parts, 1):
        file = f"pytorch_model-{number:05}-of-{len(parts):05}.bin"
        torch.save({name: _filled(tensor.shape, noise) for name, tensor in part.items()}, folder / file)
        index |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps(description(layers)))
    return sum(tensor.meta.numel() for tensor in names.values()) / 1e9


def description(layers: int) -> dict:
    """config.json of the released model, as far as it is read."""
    return {
        "model_type": "chatglm", "num_layers": layers, "hidden_size": 4096, "num_attention_heads": 32,
        "inner_hidden_size": 16384, "vocab_size": 130528, "max_sequence_length": 2048, "bos_token_id": 130004,
        "eva_config": {"num_layers": 39, "hidden_size": 1408, "num_attention_heads": 16, "inner_hidden_size": 6144,
                       "image_size": [224, 224], "patch_size": 14, "layernorm_epsilon": 1e-6},
        "qformer_config": {"num_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "vocab_size": 32,
                           "inner_hidden_size": 3072, "layernorm_epsilon": 1e-12},
    }  # fmt: skip


def measure(what: str, arguments: Sequence[str], out: Path) -> Result:
    """Run the command and watch its anonymous memory. RuntimeError if it fails."""
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen([*TOOL, *arguments], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, _anonymous(process.pid))
        time.sleep(0.02)
    if process.returncode:
        raise RuntimeError(f"{what} ended with status {process.returncode}")
    written = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    return Result(what, time.perf_counter() - start, peak, written)


def run(work: Path, billions: float) -> list[Result]:
    layers = max(1, round((billions - 2.17) * 1e9 / LAYER))
    hub, bundle, sat = work / "hub", work / "bundle", work / "sat"
    results = []
    try:
        size = make(hub, layers)
        print(f"{size:.2f} billion parameters in fp16, torch {torch.__version__}")
        print("| conversion | s | MiB/s | peak anonymous GiB | written GiB |\n|---|---|---|---|---|", flush=True)
        steps = [
            ("hub (.bin, per head) to bundle", ["import", str(hub), "--out", str(bundle)], bundle),
            ("bundle to SAT, thirds", _export(bundle, sat, "thirds"), sat),
            ("bundle to SAT, per head", _export(bundle, sat, "heads"), sat),
        ]
        for what, arguments, out in steps:
            shutil.rmtree(out, ignore_errors=True)
            results.append(measure(what, arguments, out))
            print(results[-1].row(), flush=True)
            results[-1].record()
            shutil.rmtree(hub, ignore_errors=True)
    finally:
        for folder in (hub, bundle, sat):
            shutil.rmtree(folder, ignore_errors=True)
    return results


def _export(bundle: Path, out: Path, order: str) -> list[str]:
    return ["export", str(bundle), "--format", "visualglm-sat", "--out", str(out), "--qkv", order]


def _filled(shape: Sequence[int], noise: torch.Tensor) -> torch.Tensor:
    size = torch.Size(shape).numel()
    return noise.repeat(-(-size // len(noise)))[:size].clone().reshape(shape)


def _anonymous(pid: int) -> int:
    """Bytes of a process's memory that no file backs."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--work", type=Path, required=True, help="a folder for the files, which are removed at the end")
    parser.add_argument("--billions", type=float, default=7.8, help="parameters, at least 2.4 (default 7.8)")
    arguments = parser.parse_args()
    run(arguments.work, arguments.billions)
