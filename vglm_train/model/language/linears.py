"""The linear layers of a language model's blocks, of whatever class, and their quantisation.

i inputs, o outputs.
"""

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from vglm_train.config.validation import FieldError
from vglm_train.model.language.base import LanguageModel
from vglm_train.model.language.integers import Int4Linear, Int8Linear
from vglm_train.model.language.nf4 import Nf4Linear
from vglm_train.model.language.packed import PackedLinear

ATTENTION = re.compile(r"(^|[._])\w*att(n|ention)\w*[._]", re.IGNORECASE)  # within a module's path
STD = 0.02
Quantize = Literal["nf4", "int8", "int4"]
FORMS: dict[str, type[PackedLinear]] = {each.name: each for each in (Nf4Linear, Int8Linear, Int4Linear)}


class Linear(NamedTuple):
    """x W' + b: torch's Linear, GPT-2's Conv1D, ours of few bits."""

    name: str  # in the language model
    module: Any

    @property
    def last(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def transposed(self) -> bool:
        """Whether the weight is [i,o] rather than [o,i]."""
        return type(self.module).__name__ == "Conv1D"

    @property
    def size(self) -> tuple[int, int]:
        """Inputs and outputs."""
        if isinstance(self.module, PackedLinear):
            return self.module.inputs, self.module.outputs
        o, i = self.module.weight.shape
        return (int(o), int(i)) if self.transposed else (int(i), int(o))

    @property
    def device(self) -> torch.device:
        device: torch.device = next(t for t in (*self.module.buffers(), *self.module.parameters())).device
        return device


def linears(model: LanguageModel, layers: Sequence[int] = (), field: str = "tuning.lora.layers") -> Iterator[Linear]:
    """Linear layers of the blocks numbered `layers` (empty: of all), in the model's order.

    FieldError naming `field` for a block that does not exist.
    """
    chosen = {id(block) for block in chosen_blocks(model, layers, field)}
    names = [name for name, module in model.named_modules() if id(module) in chosen]
    for name in names:
        for inner, module in model.get_submodule(name).named_modules(prefix=name):
            if is_linear(module):
                yield Linear(inner, module)


def is_linear(module: nn.Module) -> bool:
    if isinstance(module, PackedLinear):
        return True
    weight = getattr(module, "weight", None)
    return not isinstance(module, nn.Embedding) and getattr(weight, "ndim", 0) == 2


def chosen_blocks(model: LanguageModel, layers: Sequence[int], field: str) -> list[nn.Module]:
    """The blocks numbered `layers`; all if it is empty."""
    blocks = model.blocks()
    if wrong := [layer for layer in layers if not 0 <= layer < len(blocks)]:
        reason = f"there is no block {wrong[0]}: the language model has {len(blocks)}, 0 to {len(blocks) - 1}"
        raise FieldError(field, reason=reason)
    return [blocks[layer] for layer in layers or range(len(blocks))]


def match_targets(candidates: Sequence[Linear], patterns: Sequence[str]) -> list[Linear]:
    """Those whose last name matches one of the patterns (shell wildcards); without patterns, those of the attention.

    FieldError for a pattern that matches nothing, with the last names that exist.
    """
    if not patterns:
        return [linear for linear in candidates if ATTENTION.search(linear.name)]
    names = list(dict.fromkeys(linear.last for linear in candidates))
    for number, pattern in enumerate(patterns):
        if not any(fnmatchcase(name, pattern) for name in names):
            reason = f"{pattern!r} is no linear layer of the chosen blocks; there are {', '.join(names)}"
            raise FieldError(f"tuning.lora.targets.{number}", reason=reason)
    return [linear for linear in candidates if any(fnmatchcase(linear.last, pattern) for pattern in patterns)]


@torch.no_grad()
def quantize_blocks(model: LanguageModel, form: Quantize = "nf4") -> None:
    """Replace the blocks' linear layers by those of `form`, one after the other. Embeddings and head stay as they are.

    Layers on the meta device are quantised when their weights are read: see `PackedLinear`.
    """
    for linear in list(linears(model)):
        module, (inputs, outputs) = linear.module, linear.size
        if isinstance(module, PackedLinear):
            continue
        packed = FORMS[form](inputs, outputs, module.bias, module.weight.dtype)
        if not module.weight.is_meta:
            packed.weight = module.weight.T if linear.transposed else module.weight
        owner, _, last = linear.name.rpartition(".")
        setattr(model.get_submodule(owner), last, packed)
        module.weight = None  # frees the memory even if something else holds the module


def form_of(model: nn.Module) -> str | None:
    """The form of a model's quantised layers."""
    return next((module.name for module in model.modules() if isinstance(module, PackedLinear)), None)


@torch.no_grad()
def init_weights(model: LanguageModel, device: torch.device) -> None:
    """Random weights for a quantised model on the meta device, with one linear layer in full precision at a time.

    Normal with deviation 0.02, norms 1, biases 0: enough for measurements, whatever the family's own initialisation.
    """
    model.materialise(device)
    for module in model.modules():
        for last, parameter in list(module.named_parameters(recurse=False)):
            value = _init_value(last, parameter, device)
            if parameter.is_meta:
                setattr(module, last, nn.Parameter(value, requires_grad=False))
            else:
                parameter.copy_(value)
    model.to(device)


def _init_value(last: str, like: Tensor, device: torch.device) -> Tensor:
    value = torch.empty(like.shape, dtype=like.dtype, device=device)
    if value.ndim > 1:
        return value.normal_(std=STD)
    return value.zero_() if last == "bias" else value.fill_(1.0)
