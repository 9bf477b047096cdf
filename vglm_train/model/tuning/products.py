"""The matrix products of a language model's blocks, whatever class they are of."""

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import nn

from vglm_train.config.rules import FieldError
from vglm_train.model.language.base import LanguageModel

ATTENTION = re.compile(r"(^|[._])\w*att(n|ention)\w*[._]", re.IGNORECASE)  # within a module's path


class Product(NamedTuple):
    """x W' + b with a weight of o outputs and i inputs: torch's Linear, SAT's parallel ones, GPT-2's Conv1D."""

    name: str  # in the language model
    module: nn.Module
    transposed: bool  # its weight is [i,o], not [o,i]

    @property
    def last(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def size(self) -> tuple[int, int]:
        """Inputs and outputs."""
        weight: Any = self.module.weight
        o, i = weight.shape
        return (int(o), int(i)) if self.transposed else (int(i), int(o))


def products(model: LanguageModel, layers: Sequence[int] = (), field: str = "tuning.lora.layers") -> Iterator[Product]:
    """Products of the blocks numbered `layers` (none: of all), in the model's order.

    FieldError naming `field` for a block that is not there.
    """
    chosen = {id(block) for block in chosen_blocks(model, layers, field)}
    names = [name for name, module in model.named_modules() if id(module) in chosen]
    for name in names:
        for inner, module in model.get_submodule(name).named_modules(prefix=name):
            if is_product(module):
                yield Product(inner, module, type(module).__name__ == "Conv1D")


def is_product(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return not isinstance(module, nn.Embedding) and getattr(weight, "ndim", 0) == 2


def chosen_blocks(model: LanguageModel, layers: Sequence[int], field: str) -> list[nn.Module]:
    """The blocks numbered `layers`; all where none is."""
    blocks = model.blocks()
    if wrong := [layer for layer in layers if not 0 <= layer < len(blocks)]:
        reason = f"there is no block {wrong[0]}: the language model has {len(blocks)}, 0 to {len(blocks) - 1}"
        raise FieldError(field, reason=reason)
    return [blocks[layer] for layer in layers] or [blocks[n] for n in range(len(blocks))]


def targets(found: Sequence[Product], patterns: Sequence[str]) -> list[Product]:
    """Products whose last name fits one of the patterns (shell wildcards); none: those of the attention.

    FieldError for a pattern that fits nothing, with the last names that there are.
    """
    if not patterns:
        return [product for product in found if ATTENTION.search(product.name)]
    names = list(dict.fromkeys(product.last for product in found))
    for number, pattern in enumerate(patterns):
        if not any(fnmatchcase(name, pattern) for name in names):
            reason = f"{pattern!r} is no product of the chosen blocks; there are {', '.join(names)}"
            raise FieldError(f"tuning.lora.targets.{number}", reason=reason)
    return [product for product in found if any(fnmatchcase(product.last, pattern) for pattern in patterns)]
