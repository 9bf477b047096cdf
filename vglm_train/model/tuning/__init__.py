"""Fine-tuning: which parameters of a stage-two model train, and the adapters that are added to it."""

from vglm_train.config.tuning import Tuning
from vglm_train.model.language.linears import quantize_blocks
from vglm_train.model.tuning.lora import attach_lora
from vglm_train.model.tuning.prefix import attach_prefix
from vglm_train.model.tuning.rules import Resolved, apply_rules, is_adapter, table
from vglm_train.model.tuning.vision import train_blocks
from vglm_train.model.visual_language import VisualLanguageModel

__all__ = ["Resolved", "apply_tuning", "is_adapter", "table"]


def apply_tuning(model: VisualLanguageModel, config: Tuning, seed: int = 0) -> list[Resolved]:
    """Add what `config` names to a model that has its weights, and set by name what trains; see `table`.

    The model may be on the meta device. New weights are a function of `seed` and their names. Call it once,
    and before `recompute`.
    FieldError, naming the field of `tuning`, for what does not fit the model, which is then half changed.
    """
    if config.quantize:
        quantize_blocks(model.language)
    if config.lora:
        attach_lora(model.language, config.lora, seed)
    if config.prefix:
        attach_prefix(model.language, config.prefix, seed)
    vision = train_blocks(model, config.vision_blocks) if config.vision_blocks else {}
    return apply_rules(model, config.rules, vision)
