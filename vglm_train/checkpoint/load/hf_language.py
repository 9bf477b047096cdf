"""A language model of transformers from its published folder, tensor by tensor."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vglm_train.checkpoint.load.tensor_files import TensorFile, copy_tensor, hf_weight_files, open_shard
from vglm_train.errors import UserError
from vglm_train.model.language.base import LanguageModel

# tables that older versions of transformers wrote, and that every version computes
logger = logging.getLogger(__name__)
COMPUTED = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|attn\.(masked_)?bias|attention\.(masked_)?bias|embed_positions)")


def load_hf_language(model: LanguageModel, folder: Path) -> None:
    """Weights of a folder, safetensors or torch files, whole or in shards, into a causal or seq2seq language model.

    Each is cast to the dtype it has in the model. A model on the meta device gets memory on torch's current default
    device first. Weights that the family ties may be there once or several times; where their values differ, they are
    no longer tied.
    Raises UserError naming all missing, unexpected and misshapen keys; then nothing has been changed.
    """
    files = hf_weight_files(folder, "model", ".safetensors") or hf_weight_files(folder, "pytorch_model", ".bin")
    if not files:
        raise UserError(
            f"{folder} holds no weights: model.safetensors or pytorch_model.bin is expected, or parts of it with "
            ".index.json. Complete the download."
        )
    network: Any = model.model
    shards = [open_shard(file) for file in files]
    names = _names(network, shards)
    alike = _alike(network)
    _check(network.state_dict(keep_vars=True), names, shards, alike, folder)
    if any(parameter.is_meta for parameter in network.parameters()):
        model.materialise(torch.get_default_device())  # type: ignore[operator]
    written: dict[int, str] = {}
    for shard in shards:
        for key in (key for key in shard.shapes if key in names):
            _write(network, names[key], shard.read(key), written)
    _copy_absent(network, set(names.values()), alike)
    logger.info("%s: read %d tensors from %d files", folder, len(names), len(shards))


def _names(network: Any, shards: Sequence[TensorFile]) -> dict[str, str]:
    """Key of a file -> name in the model, with or without the family's prefix; keys that mean nothing are left out."""
    known, prefix = set(network.state_dict()), f"{network.base_model_prefix}."
    useless = [re.compile(pattern) for pattern in network._keys_to_ignore_on_load_unexpected or ()]
    names = {}
    for key in (key for shard in shards for key in shard.shapes):
        candidates = (key, f"{prefix}{key}", key.removeprefix(prefix))
        name = next((candidate for candidate in candidates if candidate in known), None)
        if name or not (COMPUTED.fullmatch(key) or any(pattern.search(key) for pattern in useless)):
            names[key] = name or key
    return names


def _alike(network: Any) -> dict[str, set[str]]:
    """Name -> all names that its family ties it to."""
    groups: list[set[str]] = []
    for pair in network.get_expanded_tied_weights_keys(all_submodels=True).items():
        joined = set(pair).union(*(group for group in groups if group & set(pair)))
        groups = [group for group in groups if not group & joined] + [joined]
    return {name: group for group in groups for name in group}


def _check(
    state: Mapping[str, Tensor],
    names: Mapping[str, str],
    shards: Sequence[TensorFile],
    alike: Mapping[str, set[str]],
    folder: Path,
) -> None:
    filled, problems = set(names.values()), []
    if missing := [name for name in state if not filled & alike.get(name, {name})]:
        problems.append(f"missing: {', '.join(missing)}")
    if unexpected := [key for key, name in names.items() if name not in state]:
        problems.append(f"more than the model has: {', '.join(unexpected)}")
    if len(filled) < len(names):
        twice = [key for key, name in names.items() if list(names.values()).count(name) > 1]
        problems.append(f"two names of one weight: {', '.join(twice)}")
    for shard in shards:
        for key, shape in shard.shapes.items():
            wanted = state.get(names.get(key, ""))
            if wanted is not None and list(shape) != list(wanted.shape):
                problems.append(f"{key} is {list(shape)}, the model has {list(wanted.shape)}")
    if problems:
        raise UserError(
            f"{folder} does not fit the model that its config.json describes: {'; '.join(problems)}. Nothing was "
            "loaded: complete the folder, or correct model.language."
        )


@torch.no_grad()
def _write(network: nn.Module, name: str, value: Tensor, written: dict[int, str]) -> None:
    """`written`: tensors that have their values -> under which name; a second, other value ends a tie."""
    owner, _, last = name.rpartition(".")
    old = getattr(network.get_submodule(owner), last)
    if old.is_meta:
        copy_tensor(network, name, old, value)
        return
    value = value.to(old.device, old.dtype)
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
        if not any(state[name] is source for source in sources):
            state[name].copy_(sources[0])
