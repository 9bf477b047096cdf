"""A language model of transformers from its published folder, tensor by tensor."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vglm_train.checkpoint.load.fill import copy_tensor
from vglm_train.checkpoint.load.finite import check_finite
from vglm_train.checkpoint.load.lazy_tensors import Lazy, Tensors, below, of_shards
from vglm_train.checkpoint.load.tensor_files import open_shard, open_weights
from vglm_train.errors import UserError
from vglm_train.model.language.base import LanguageModel

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Published:
    """Files of a transformers model under the names that its parameters have, unread."""

    tensors: Tensors
    keys: dict[str, tuple[str, ...]]  # name -> its keys in the files
    unknown: list[str] = field(default_factory=list)  # keys that the model has no place for
    useless: list[str] = field(default_factory=list)  # of these, what it computes or its family leaves out
    problems: list[str] = field(default_factory=list)  # keys that cannot become what they should


def load_hf_language(model: LanguageModel, path: Path) -> None:
    """Weights of a folder, safetensors or torch files, whole or in shards, into a causal or seq2seq language model; or
    of a bundle's file, whose names begin with `model.`

    Each is cast to the dtype it has in the model. A model on the meta device gets memory on torch's current default
    device first. Weights that the family ties may be there once or several times; where their values differ, they are
    no longer tied. Keys are renamed, and weights cut or stacked, by transformers' own rules.
    Raises UserError naming all missing, unexpected and misshapen keys; then nothing has been changed. As `check_finite`
    for values that are not finite.
    """
    network: Any = model.model
    raw = below(of_shards([open_shard(path)]), "model.") if path.is_file() else of_shards(open_weights(path))
    published = as_published(network, raw)
    alike = _alike(network)
    absent = _check(network, published, alike, path)
    empty = any(parameter.is_meta for parameter in network.parameters())
    if empty:
        model.materialise(torch.get_default_device())
    written: dict[int, str] = {}
    for name, tensor in published.tensors.items():
        _write(network, name, tensor.read(), written, path)
    _copy_absent(network, set(published.tensors), alike)
    _compute_absent(network, absent, empty, path)
    logger.info("%s: read %d tensors", path, len(published.tensors))


def as_published(network: Any, raw: Mapping[str, Lazy]) -> Published:
    """What files hold for `network`, a transformers model, by transformers' own rules of names and layouts."""
    from vglm_train.model.language.hf.published import conversions, means_nothing

    steps, unknown = conversions(network, raw)
    useless = [key for key in unknown if means_nothing(network, key)]
    result = Published({}, {}, [key for key in unknown if key not in useless], useless)
    for step in steps:
        try:
            made = step.run(lambda key: raw[key].meta)
        except (RuntimeError, ValueError, IndexError) as error:
            result.problems.append(f"{', '.join(step.keys)} cannot be put together: {error}")
            continue
        for name, meta in made.items():
            if name in result.tensors:
                result.problems.append(f"two names of one weight: {', '.join((*result.keys[name], *step.keys))}")
            read = partial(_made, step.run, raw, name)
            result.tensors[name] = Lazy(tuple(meta.shape), meta.dtype, read)
            result.keys[name] = step.keys
    return result


def _made(run: Any, raw: Mapping[str, Lazy], name: str) -> Tensor:
    tensor: Tensor = run(lambda key: raw[key].read())[name]
    return tensor


def _alike(network: Any) -> dict[str, set[str]]:
    """Name -> all names that its family ties it to."""
    groups: list[set[str]] = []
    for pair in network.get_expanded_tied_weights_keys(all_submodels=True).items():
        joined = set(pair).union(*(group for group in groups if group & set(pair)))
        groups = [group for group in groups if not group & joined] + [joined]
    return {name: group for group in groups for name in group}


def _check(network: Any, published: Published, alike: Mapping[str, set[str]], path: Path) -> list[str]:
    """UserError where the files do not fit. Returns names that the files need not hold, and that are to be computed."""
    from vglm_train.model.language.hf.published import may_be_missing

    state, filled, problems = network.state_dict(keep_vars=True), set(published.tensors), list(published.problems)
    missing = [name for name in state if not filled & alike.get(name, {name})]
    absent = [name for name in missing if may_be_missing(network, name)]
    if lost := [name for name in missing if name not in absent]:
        problems.insert(0, f"missing: {', '.join(lost)}")
    if published.unknown:
        problems.append(f"more than the model has: {', '.join(published.unknown)}")
    for name, tensor in published.tensors.items():
        if tensor.shape != tuple(state[name].shape):
            keys = _few(published.keys[name])
            problems.append(f"{keys} is {list(tensor.shape)}, the model has {list(state[name].shape)}")
    if problems:
        raise UserError(
            f"{path} does not fit the model that its config.json describes: {'; '.join(problems)}. Nothing was "
            "loaded: complete the folder, or correct model.language."
        )
    return absent


def _few(keys: Sequence[str]) -> str:
    return ", ".join(keys) if len(keys) < 4 else f"{keys[0]}, ... ({len(keys)} keys)"


@torch.no_grad()
def _write(network: nn.Module, name: str, value: Tensor, written: dict[int, str], path: Path) -> None:
    """`written`: tensors that have their values -> under which name; a second, other value ends a tie."""
    owner, _, last = name.rpartition(".")
    old = getattr(network.get_submodule(owner), last)
    if old.is_meta:
        copy_tensor(network, name, old, value, name, path)
        return
    value = value.to(old.device, old.dtype)
    check_finite(value, name, path)
    if id(old) not in written:
        old.copy_(value)
        written[id(old)] = name
    elif not torch.equal(old, value):
        logger.info("%s differs from %s: the two are not tied", name, written[id(old)])
        new = nn.Parameter(value.clone(), requires_grad=False)
        setattr(network.get_submodule(owner), last, new)
        written[id(new)] = name


@torch.no_grad()
def _copy_absent(network: nn.Module, filled: set[str], alike: Mapping[str, set[str]]) -> None:
    """Weights that the model holds apart and the file tied."""
    state = network.state_dict(keep_vars=True)
    for name in set(state) & set(alike) - filled:
        sources = [state[other] for other in sorted(filled & alike[name])]
        if sources and not any(state[name] is source for source in sources):
            state[name].copy_(sources[0])


def _compute_absent(network: Any, names: Sequence[str], empty: bool, path: Path) -> None:
    """Values of what the files need not hold. `empty`: the model was built without memory, buffers included."""
    from vglm_train.model.language.hf.build import compute

    buffers = {name for name, _ in network.named_buffers()}
    left = [name for name in compute(network, names) if empty or name not in buffers]
    if left:
        raise UserError(f"{path} lacks {', '.join(left)}, which transformers cannot compute. Complete the folder.")
