"""In which order a file holds fused queries, keys and values: what it records, and what its numbers say."""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from vglm_train.checkpoint.keymaps.sat import Fused
from vglm_train.checkpoint.load.lazy_tensors import Lazy
from vglm_train.errors import UserError

SINCE = (0, 4, 4)  # SAT's version from which a file holds thirds
RECORDED = ("sat_version", "SwissArmyTransformer")  # keys of model_config.json that may give SAT's version
CLEAR = 30.0  # how many times more one order must explain than the other


def choose_order(option: Fused | None, recorded: Fused, measured: Fused | None, path: str) -> tuple[Fused, str]:
    """The order to read, and a line that says why. UserError where the numbers contradict what would be assumed."""
    if option is not None:
        doubt = f"; its numbers look like {measured}" if measured not in (None, option) else ""
        return option, f"queries, keys and values: {option}, as --qkv says{doubt}"
    if measured is not None and measured != recorded:
        raise UserError(
            f"{path}: by its format its queries, keys and values should be in {recorded}, but its numbers say "
            f"{measured}. Give --qkv {measured}, or --qkv {recorded} if you know better."
        )
    why = "and its numbers agree" if measured else "which its numbers neither confirm nor deny"
    return recorded, f"queries, keys and values: {recorded}, as the format has it, {why}"


def recorded_order(config: Mapping[str, object]) -> Fused:
    """By the version of SAT that model_config.json records; thirds where it records none."""
    version = next((str(config[key]) for key in RECORDED if key in config), None)
    numbers = tuple(int(part) for part in re.findall(r"\d+", version or "")[:3])
    return "heads" if numbers and numbers < SINCE else "thirds"


def measured_order(tensors: Mapping[str, Lazy], heads: int) -> Fused | None:
    """What biases and weights of attention say; `tensors` are those of one tower, under names of SAT.

    EVA has no bias on its keys: where they stand, there are zeros. Otherwise norms of rows differ more between
    queries, keys and values than chance allows, in the right order only.
    """
    suffix = "attention.query_key_value."
    biases = [tensor.read().float() for name, tensor in tensors.items() if name.endswith(f"{suffix}bias")]
    keyless = {order: bool(biases) and all(_keys_are_zero(bias, order, heads) for bias in biases)
               for order in ("thirds", "heads")}  # fmt: skip
    if keyless["thirds"] != keyless["heads"]:
        return "thirds" if keyless["thirds"] else "heads"
    names = [name for name in tensors if name.endswith(f"{suffix}weight")]
    some = {names[i] for i in (0, len(names) // 2, -1)} if names else set()
    norms = [tensors[name].read().float().norm(dim=1).clamp(min=1e-12).log() for name in sorted(some)]
    thirds, per_head = (sum(_explained(norm, order, heads) for norm in norms) for order in ("thirds", "heads"))
    if max(thirds, per_head) < CLEAR * max(min(thirds, per_head), float(len(norms))):
        return None
    return "thirds" if thirds > per_head else "heads"


def _parts(rows: Tensor, order: str, heads: int) -> Tensor:
    """[3w] -> [3,w]: queries, keys, values."""
    return rows.view(3, -1) if order == "thirds" else rows.view(heads, 3, -1).transpose(0, 1).reshape(3, -1)


def _keys_are_zero(bias: Tensor, order: str, heads: int) -> bool:
    q, k, v = _parts(bias, order, heads)
    return bool(not k.any() and q.any() and v.any())


def _explained(norms: Tensor, order: str, heads: int) -> float:
    """F of a one-way analysis of variance with queries, keys and values as groups; about 1 by chance."""
    parts = _parts(norms, order, heads)
    between = parts.mean(1).var() * parts.shape[1]
    within = parts.var(1).mean()
    value = float(between / within.clamp(min=1e-12))
    return value if math.isfinite(value) and torch.isfinite(norms).all() else 0.0
