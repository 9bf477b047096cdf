"""The keys of published files of a transformers model, by transformers' own rules, and what becomes of them.

A family's parameters are often named, cut or stacked otherwise than when its weights were published: GPT-NeoX's
`embed_out` is now `lm_head`, Mixtral's experts are now one tensor a layer. transformers changes them while it reads
(`conversion_mapping.py`, `core_model_loading.py`); here its rules say what to read, before anything is read.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

Read = Callable[[str], Tensor]

# tables that older versions of transformers wrote, and that every version computes
COMPUTED = re.compile(
    r"(.*\.)?((rotary_emb|maybe_rotary)\.inv_freq|position_ids|(attn|attention)\.(masked_)?bias|embed_positions"
    r"(\.weights)?|causal_mask)"
)


@dataclass(frozen=True, slots=True)
class Conversion:
    """Keys that become parameters together. `run`: their tensors, by a function that reads one -> by name in the model.

    Shapes alone can be asked for with tensors on the meta device. RuntimeError or ValueError where they do not fit.
    """

    keys: tuple[str, ...]
    run: Callable[[Read], dict[str, Tensor]] = field(repr=False)


def conversions(network: Any, keys: Iterable[str]) -> tuple[list[Conversion], list[str]]:
    """What becomes of the keys of files, and those that the model has no place for."""
    state = network.state_dict()
    rules = get_model_conversion_mapping(network)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    prefix = network.base_model_prefix
    result, unknown = [], []
    together: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for key in sorted(keys, key=dot_natural_key):  # rules rely on this order, that of transformers
        name, pattern = rename_source_key(key, renamings, converters, prefix, state)
        if name not in state:  # it has today's name already
            name, pattern = rename_source_key(key, [], [], prefix, state)
        if name not in state:
            unknown.append(key)
        elif pattern is None:
            result.append(Conversion((key,), partial(_renamed, key, name)))
        else:
            together[name].append((key, pattern))
    for name, members in together.items():
        run = partial(_converted, by_pattern[members[0][1]], name, members, network)
        result.append(Conversion(tuple(key for key, _ in members), run))
    return result, unknown


def _renamed(key: str, name: str, read: Read) -> dict[str, Tensor]:
    return {name: read(key)}


def _converted(
    rule: WeightConverter, name: str, members: list[tuple[str, str]], network: Any, read: Read
) -> dict[str, Tensor]:
    rule = deepcopy(rule)  # it collects tensors, or functions that read them
    for key, pattern in members:
        reader: Any = partial(read, key)
        rule.add_tensor(name, key, pattern, reader)
    made = rule.convert(name, model=network, config=network.config)
    return {target: value[0] if isinstance(value, list) else value for target, value in made.items()}


def means_nothing(network: Any, key: str) -> bool:
    """Whether a key that the model has no place for is a table that it computes, or one that its family leaves out."""
    prefix = f"{network.base_model_prefix}."
    computed = {name for name, _ in network.named_buffers()}
    if COMPUTED.fullmatch(key) or computed & {key, f"{prefix}{key}", key.removeprefix(prefix)}:
        return True
    return any(re.search(pattern, key) for pattern in network._keys_to_ignore_on_load_unexpected or ())


def may_be_missing(network: Any, name: str) -> bool:
    """Whether the family's files need not hold this parameter, as it is computed or zero."""
    return any(re.search(pattern, name) for pattern in network._keys_to_ignore_on_load_missing or ())
