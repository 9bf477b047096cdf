"""One rank of test_two_processes.py and test_two_gpus.py, with torchrun's environment variables.

python two_ranks.py FOLDER [gloo | nccl [fp64 | fp32 | bf16]]
"""

import contextlib
import os
import socket
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import tiny
import torch
from precision import in_float64
from safetensors.torch import load_file, save_file
from torch import Tensor

from vglm_train import distributed
from vglm_train.batch import PairBatch
from vglm_train.config.run import Objective
from vglm_train.distributed import Ranks
from vglm_train.objective.alignment import AlignmentObjective

HERE = Path(__file__).parent
ROWS, SEED, FIRST_ROW = 8, 42, 64


def global_batch() -> PairBatch:
    """Unequal texts, three rows of one picture and two of another on different ranks, one damaged row."""
    batch = tiny.batch(FIRST_ROW, ROWS)
    batch.image_ids.copy_(torch.tensor([1, 2, 1, 3, 1, 4, 3, 5]))
    batch.pixels[6], batch.text_ids[6], batch.text_mask[6], batch.valid[6] = 0, tiny.PAD, False, False
    return batch


def share(batch: PairBatch, ranks: Ranks) -> PairBatch:
    """The rows of one rank."""
    size = ROWS // ranks.world
    start = ranks.rank * size
    tensors = {f.name: getattr(batch, f.name) for f in fields(batch)}
    cut = {name: value[start : start + size] for name, value in tensors.items() if isinstance(value, Tensor)}
    return replace(batch, **cut, first_row=batch.first_row + start)


def step(ranks: Ranks, precision: str = "fp64") -> dict[str, Tensor]:
    """Global means of the losses, global counts, and the gradient the engine would have after averaging."""
    objective = AlignmentObjective(tiny.alignment(), Objective(), ranks, SEED, dec_id=tiny.DEC).train().to(ranks.device)
    batch = share(global_batch(), ranks).to(ranks.device)
    bf16 = torch.autocast(ranks.device.type, torch.bfloat16, enabled=precision == "bf16")
    with in_float64(objective) if precision == "fp64" else contextlib.nullcontext(), bf16:
        counts = {name: ranks.all_sum(value) for name, value in objective.units(batch).items()}
        output = objective(batch)
    sum(output.sums[name] * ranks.world / counts[name] for name in output.sums).backward()
    found = {f"loss/{name}": ranks.all_sum(value.detach()) / counts[name] for name, value in output.sums.items()}
    found |= {f"count/{name}": value for name, value in counts.items()}
    for name, (total, count) in output.measures.items():
        found[f"measure/{name}"] = torch.stack((ranks.all_sum(total.clone()), ranks.all_sum(count.clone())))
    for name, parameter in objective.model.trained_parameters():
        found[f"gradient/{name}"] = ranks.all_sum(parameter.grad.clone()) / ranks.world
    return found


def launch(
    folder: Path, world: int, *arguments: str, script: Path = HERE / "two_ranks.py", **environment: str
) -> list[dict[str, Tensor]]:
    """Start `world` processes of this file, or of another; what each found."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    shared = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **environment,
    }
    command = [sys.executable, str(script), str(folder), *arguments]
    ranks = [
        subprocess.Popen(command, env={**shared, "RANK": str(r), "LOCAL_RANK": str(r)}, stderr=subprocess.PIPE)
        for r in range(world)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    return [load_file(folder / f"{rank}.safetensors") for rank in range(world)]


if __name__ == "__main__":
    group = distributed.start(sys.argv[2] if len(sys.argv) > 2 else "gloo")
    save_file(step(group, *sys.argv[3:]), Path(sys.argv[1]) / f"{group.rank}.safetensors")
    distributed.stop()
