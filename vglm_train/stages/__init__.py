"""What differs between the stages of training (align, generate, finetune), and nothing else. `build` makes one.

A stage joins data, prompt, model, objective, checkpoint and evaluate for a run. May not import run, describe or train.
"""

import torch

from vglm_train.config.run import Config
from vglm_train.distributed import use_gpu
from vglm_train.model.vision import check_card
from vglm_train.stages.base import Stage

__all__ = ["Stage", "build"]


def build(config: Config) -> Stage:
    """Tokenizers are read here; models are not built yet. UserError where they do not fit the configuration, and where
    this machine's card does not."""
    check_card(config.model.vision, torch.device("cuda" if use_gpu() else "cpu"))
    if config.run.stage == "align":
        from vglm_train.stages.align import Align

        return Align(config)
    if config.run.stage == "generate":
        from vglm_train.stages.generate import Generate

        return Generate(config)
    from vglm_train.stages.finetune import Finetune

    return Finetune(config)
