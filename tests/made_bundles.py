"""Bundles and what stage-two models answer, for several tests."""

from pathlib import Path
from typing import Any

import tiny
import torch

from vglm_train import stages
from vglm_train.batch import PromptBatch
from vglm_train.checkpoint.bundle.read import Bundle
from vglm_train.config.load import load
from vglm_train.prompt.dialogue import Dialogue


def built(config: Path, *overrides: str) -> tuple[Any, Any]:
    """Stage and model of a run that has not begun, in eval mode."""
    stage = stages.build(load(config, overrides))
    torch.manual_seed(5)
    model = stage.model()
    stage.load(model)
    return stage, model.eval()


def spoken_logits(model: Any, template: Any) -> torch.Tensor:
    rows = [template.encode(Dialogue("a photo", f"number {n}"), split=0.5) for n in (3, 14)]
    pixels = tiny.batch(0, 2).pixels
    valid = torch.ones(2, dtype=torch.bool)
    batch = PromptBatch(pixels=pixels, valid=valid, **template.collate(rows))
    with torch.no_grad():
        return model.score(batch)[0]


def parts(bundle: Bundle) -> tuple[Any, Any]:
    return bundle.model, bundle.template
