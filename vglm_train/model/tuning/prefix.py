"""P-tuning v2 (arXiv:2110.07602): trained keys and values in the attention of every block."""

from torch import nn

from vglm_train.config.tuning import Prefix as PrefixConfig
from vglm_train.model.language.adapter import Prefix
from vglm_train.model.language.base import LanguageModel
from vglm_train.model.language.linears import chosen_blocks
from vglm_train.model.tuning.seeded_init import seeded_random

STD = 0.02


def attach_prefix(model: LanguageModel, config: PrefixConfig, seed: int) -> None:
    """Give the blocks that `config` names a prefix, named `....adapter.prefix_keys` and `.prefix_values`.

    Initialised from (seed, name), normal with deviation 0.02. FieldError for a block that does not exist, UserError for
    a model whose attention cannot be extended.
    """
    chosen = {id(block) for block in chosen_blocks(model, config.layers, "tuning.prefix.layers")}
    names = {id(module): name for name, module in model.named_modules()}
    attentions = model.attentions()
    for block, (attention, heads, width) in zip(model.blocks(), attentions, strict=True):
        if id(block) not in chosen:
            continue
        prefix, name = Prefix(heads, config.length, width), names[id(attention)]
        for last in ("prefix_keys", "prefix_values"):
            shape = getattr(prefix, last).shape
            setattr(prefix, last, nn.Parameter(seeded_random(shape, seed, f"{name}.{last}", normal=True).mul_(STD)))
        add_prefix(model, attention, prefix)


def add_prefix(model: LanguageModel, attention: nn.Module, prefix: Prefix) -> None:
    """Let this attention of the model use the prefix."""
    prefix.to(next(t for t in (*attention.buffers(), *attention.parameters())).device)
    attention.add_module("adapter", prefix)
    model.read_prefixes(prefix.length)
