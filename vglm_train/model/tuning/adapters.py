"""Several adapters on one model: any of them, none, or a weighted sum.

Low-rank updates are added exactly, by concatenating their ranks. Whole tensors are added as differences from the
model's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vglm_train.errors import UserError
from vglm_train.model.language.adapter import Prefix
from vglm_train.model.language.linears import linears
from vglm_train.model.tuning.lora import LowRank, add_update, remove_update
from vglm_train.model.tuning.prefix import add_prefix
from vglm_train.model.tuning.rules import kind_of
from vglm_train.model.visual_language import VisualLanguageModel

LANGUAGE = "language."


@dataclass(frozen=True, slots=True)
class AdapterPart:
    """An adapter's tensors by their names in the model; `scale` is what its B A is multiplied by."""

    tensors: Mapping[str, Tensor]
    scale: float


class Adapters:
    """Adapters by name on a model that has none of its own. Nothing is active until `use`."""

    def __init__(self, model: VisualLanguageModel) -> None:
        self.model = model
        self._parts: dict[str, AdapterPart] = {}
        self._before: dict[str, Tensor] = {}  # whole tensors as they were
        self._linears = {f"{LANGUAGE}{linear.name}": linear for linear in linears(model.language)}

    def add(self, name: str, tensors: Mapping[str, Tensor], scale: float) -> None:
        """UserError, naming what is wrong, for tensors that do not fit this model."""
        state = dict(self.model.named_parameters())
        for key, tensor in tensors.items():
            owner = key.rpartition(".adapter.")[0]
            if kind_of(key) is None and (key not in state or state[key].shape != tensor.shape):
                other = f"one of {list(state[key].shape)}" if key in state else "none"
                raise UserError(f"adapter {name}: {key} is {list(tensor.shape)}, the model has {other}.")
            if kind_of(key) == "lora" and not self._fits(owner, key, tensor):
                raise UserError(f"adapter {name}: the model has no linear layer for {key} of {list(tensor.shape)}.")
            if kind_of(key) == "prefix" and not hasattr(self._module(owner), "named_children"):
                raise UserError(f"adapter {name}: the model has no attention {owner}.")
        self._parts[name] = AdapterPart(tensors, scale)

    @torch.no_grad()
    def use(self, weights: Mapping[str, float]) -> None:
        """Apply these adapters, each times its weight, and no others. {}: the model without adapters.

        KeyError for a name that was not added. UserError for a prefix with a weight, or for two.
        """
        active = [(self._parts[name], weight) for name, weight in weights.items()]
        prefixed = [weight for part, weight in active if any(kind_of(key) == "prefix" for key in part.tensors)]
        if len(prefixed) > 1 or any(weight != 1 for weight in prefixed):
            raise UserError(
                "a trained prefix is not a difference that could be added or weighed: use it alone, with weight 1."
            )
        self._clear()
        self.model.vision.widen(self._blocks_from({key for part, _ in active for key in part.tensors}))
        for name in dict.fromkeys(key for part, _ in active for key in part.tensors):
            kind, mine = kind_of(name), [(part, weight) for part, weight in active if name in part.tensors]
            owner = name.rpartition(".adapter.")[0]
            if kind is None:
                self._blend(name, mine)
            elif name.endswith(".lora_a"):
                self._update(owner, mine)
            elif name.endswith(".prefix_keys"):
                self._prefix(owner, mine[0][0])

    def _clear(self) -> None:
        for linear in self._linears.values():
            if isinstance(getattr(linear.module, "adapter", None), LowRank):
                remove_update(linear)
        for module in list(self.model.language.modules()):
            if isinstance(getattr(module, "adapter", None), Prefix):
                del module.adapter
        self.model.vision.widen(0)
        for name, tensor in self._before.items():
            self.model.get_parameter(name).copy_(tensor)

    def _update(self, owner: str, parts: list[tuple[AdapterPart, float]]) -> None:
        down = [part.tensors[f"{owner}.adapter.lora_a"] for part, _ in parts]
        up = [part.tensors[f"{owner}.adapter.lora_b"] * (part.scale * weight) for part, weight in parts]
        linear, total = self._linears[owner], sum(len(a) for a in down)
        update = LowRank(*linear.size, total, 1.0)
        update.lora_a, update.lora_b = nn.Parameter(torch.cat(down)), nn.Parameter(torch.cat(up, 1))
        add_update(linear, update.requires_grad_(False).eval())

    def _prefix(self, owner: str, part: AdapterPart) -> None:
        keys, values = (part.tensors[f"{owner}.adapter.prefix_{name}"] for name in ("keys", "values"))
        prefix = Prefix(*keys.shape)
        prefix.prefix_keys, prefix.prefix_values = nn.Parameter(keys.clone()), nn.Parameter(values.clone())
        add_prefix(self.model.language, self._module(owner), prefix.requires_grad_(False).eval())

    def _blend(self, name: str, parts: list[tuple[AdapterPart, float]]) -> None:
        parameter = self.model.get_parameter(name)
        before = self._before.setdefault(name, parameter.detach().cpu().clone()).float()
        total = before + sum(weight * (part.tensors[name].cpu().float() - before) for part, weight in parts)
        parameter.copy_(total)

    def _blocks_from(self, names: set[str]) -> int:
        """How many of the image encoder's last blocks hold all of these names."""
        blocks = list(self.model.vision.encoder.blocks)
        whole = {id(parameter): name for name, parameter in self.model.named_parameters()}
        touched = [any(whole[id(p)] in names for p in block.parameters()) for block in blocks]
        return len(blocks) - touched.index(True) if True in touched else 0

    def _module(self, name: str) -> Any:
        try:
            return self.model.get_submodule(name)
        except AttributeError:
            return None

    def _fits(self, owner: str, name: str, tensor: Tensor) -> bool:
        if owner not in self._linears:
            return False
        inputs, outputs = self._linears[owner].size
        return tensor.shape[1] == inputs if name.endswith(".lora_a") else tensor.shape[0] == outputs
