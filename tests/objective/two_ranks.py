"""One rank of test_two_processes.py: `python two_ranks.py FOLDER`, with torchrun's environment variables."""

import sys
from dataclasses import fields, replace
from pathlib import Path

import tiny
import torch
from safetensors.torch import save_file
from torch import Tensor

from vglm_train import distributed
from vglm_train.batch import PairBatch
from vglm_train.config.run import Objective
from vglm_train.distributed import Ranks
from vglm_train.objective.alignment import AlignmentObjective

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


def step(ranks: Ranks) -> dict[str, Tensor]:
    """Global means of the losses, global counts, and the gradient the engine would have after averaging."""
    objective = AlignmentObjective(tiny.alignment(), Objective(), ranks, SEED, dec_id=tiny.DEC).train()
    batch = share(global_batch(), ranks)
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


if __name__ == "__main__":
    group = distributed.start("gloo")
    save_file(step(group), Path(sys.argv[1]) / f"{group.rank}.safetensors")
    distributed.stop()
