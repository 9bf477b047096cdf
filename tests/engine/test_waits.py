"""A step waits for the GPU once, for the norm of its gradients at its end. Runs where there is a GPU, or says why not.

The host is ahead of the device otherwise, which is why the device has always something to do.
"""

import pytest
import tiny
import tiny_language
import torch

from vglm_train import distributed
from vglm_train.engine.deepspeed_engine import DeepSpeedEngine
from vglm_train.objective.alignment import AlignmentObjective
from vglm_train.objective.generation import GenerationObjective

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU: waits were not looked for")


@pytest.mark.parametrize("kind", ["align", "generate"])
def test_a_step_launches_without_waiting(kind, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    ranks, config = distributed.start("nccl"), tiny.config()
    if kind == "align":
        model, batch = tiny.alignment(), tiny.batch(0, 8)
        objective = AlignmentObjective(model, config.objective, ranks, 42, dec_id=tiny.DEC)
    else:
        model, batch = tiny_language.build(tiny_language.CHATGLM), tiny_language.prompts(8)
        objective = GenerationObjective(model)
    objective = objective.to(ranks.device).train()
    engine, batch = DeepSpeedEngine(objective, config, 1, ranks), batch.to(ranks.device)

    def step():
        scale = {name: 1 / count for name, count in objective.units(batch).items()}
        return engine.step([batch], [scale], 1e-3)[1]

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        update = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert update.applied
    assert update.grad_norm > 0
