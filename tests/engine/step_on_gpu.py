"""A step of a stage on a GPU, which must not wait for the device: `python step_on_gpu.py align|generate`."""

import os
import sys

os.environ["DS_ACCELERATOR"] = "cuda"

import tiny
import tiny_language
import torch

from vglm_train import distributed
from vglm_train.engine.deepspeed_engine import DeepSpeedEngine, Update
from vglm_train.objective.alignment import AlignmentObjective
from vglm_train.objective.generation import GenerationObjective


def main(kind: str) -> None:
    ranks, config = distributed.start("nccl"), tiny.config()
    if kind == "align":
        model, batch = tiny.alignment(), tiny.batch(0, 8)
        objective = AlignmentObjective(model, config.objective, ranks, 42, dec_id=tiny.DEC)
    else:
        model, batch = tiny_language.build(tiny_language.CHATGLM), tiny_language.prompts(8)
        objective = GenerationObjective(model)
    objective = objective.to(ranks.device).train()
    engine, batch = DeepSpeedEngine(objective, config, 1, ranks), batch.to(ranks.device)

    def step() -> Update:
        scale = {name: 1 / count for name, count in objective.units(batch).items()}
        return engine.step([batch], [scale], 1e-3)[1]

    step()
    torch.cuda.set_sync_debug_mode("error")
    update = step()
    torch.cuda.set_sync_debug_mode("default")
    assert update.applied
    assert update.grad_norm > 0
    print("one wait", update.grad_norm)


if __name__ == "__main__":
    main(sys.argv[1])
