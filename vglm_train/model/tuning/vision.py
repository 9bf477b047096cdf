"""The image encoder's last blocks, trained with a learning rate that falls with depth (ELECTRA, arXiv:2003.10555)."""

from typing import Any

from vglm_train.config.tuning import VisionBlocks
from vglm_train.config.validation import FieldError
from vglm_train.model.visual_language import VisualLanguageModel


def train_blocks(model: VisualLanguageModel, config: VisionBlocks) -> dict[str, float]:
    """Let the last blocks train; whole names of their parameters -> times optim.lr.

    FieldError where the encoder has fewer blocks.
    """
    encoder: Any = model.vision.encoder
    depth = len(encoder.blocks)
    if config.last > depth:
        raise FieldError("tuning.vision_blocks.last", reason=f"{config.last} blocks, but the image encoder has {depth}")
    trained = model.vision.train_last(config.last)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates: dict[str, float] = {}
    for above, block in enumerate(reversed(trained)):
        rates |= {names[id(parameter)]: config.decay**above for parameter in block.parameters()}
    return rates
