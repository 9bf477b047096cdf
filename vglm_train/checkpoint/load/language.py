"""Published weights into a frozen language model, shard by shard."""

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vglm_train.checkpoint.keymaps.keymap import KeyMap, rename
from vglm_train.checkpoint.keymaps.sat import Fused, chatglm_rules, sat_language
from vglm_train.checkpoint.load.pretrained import load_strictly, read_weights
from vglm_train.checkpoint.load.tensor_files import TensorShard, copy_tensor, fill, indexed, open_shard
from vglm_train.checkpoint.load.visualglm import CONFIG, check_heads, is_sat_folder, read_json, sat_shard
from vglm_train.config.language import Language
from vglm_train.errors import UserError
from vglm_train.folders import recover
from vglm_train.model.language.base import LanguageModel

HUB_CONFIG = "config.json"
OWN = "language.safetensors"  # of a bundle


def load_language(model: LanguageModel, config: Language, fused: Fused | None = None) -> None:
    """Read `config.weights` into `model`; nothing if it is None.

    ChatGLM: a SAT folder (the language part of VisualGLM's will do) or ChatGLM-6B's Hugging Face folder. `fused` says
    how the files hold queries, keys and values, if not as the layout has it today; see `checkpoint.sat.Fused`.
    Raises UserError naming the folder and everything that does not fit; then nothing has been changed.
    """
    if config.weights is None:
        return
    with model.home or nullcontext():
        _load(model, config, Path(config.weights), fused)
    if model.home is not None:
        model.to(model.home)  # tables that no file holds


def _load(model: LanguageModel, config: Language, folder: Path, fused: Fused | None) -> None:
    if folder.name == OWN:
        if any(parameter.is_meta for parameter in model.parameters()):
            model.materialise(torch.get_default_device())
        load_strictly(model, read_weights(folder), folder)
        return
    recover(folder)
    if not folder.is_dir():
        raise UserError(
            f"language.weights: {folder} is not a folder. Give the folder that the model was downloaded to."
        )
    if config.family != "chatglm":
        load_hf_language(model, folder)
        return
    if is_sat_folder(folder):
        check_heads(folder, {"": config.heads})
        _check_sop(model, folder / CONFIG)
        fill(model, [sat_shard(folder)], sat_language(config.heads, fused or "thirds"), folder)
    else:
        _load_hub(model, config.heads, folder, fused or "heads")


def hub_chatglm(heads: int, fused: Fused = "heads") -> KeyMap:
    """ChatGLM-6B's Hugging Face files -> `ChatGlm`."""
    head = rename("lm_head.weight", "network.mixins.chatglm-final.lm_head.weight")
    return KeyMap(
        rules=(*chatglm_rules("", "", heads, fused), head),
        ignored=(
            "transformer.layers.#.attention.rotary_emb.inv_freq",
            "transformer.rotary_emb.inv_freq",
            "image_encoder.*",  # of VisualGLM-6B in this layout
        ),
    )


def _load_hub(model: LanguageModel, heads: int, folder: Path, fused: Fused) -> None:
    files = indexed(folder, "model", ".safetensors") or indexed(folder, "pytorch_model", ".bin")
    if not files:
        raise UserError(
            f"language.weights: {folder} holds neither a SAT checkpoint (latest, model_config.json) nor weights of "
            "Hugging Face (model.safetensors or pytorch_model.bin, with .index.json if in parts)."
        )
    _check_sop(model, folder / HUB_CONFIG)
    if (folder / HUB_CONFIG).exists():
        theirs = read_json(folder / HUB_CONFIG).get("num_attention_heads")
        if theirs is not None and theirs != heads:
            raise UserError(
                f"{folder / HUB_CONFIG}: num_attention_heads is {theirs}, the configured model has {heads}. "
                "Correct language.heads."
            )
    fill(model, [open_shard(file) for file in files], hub_chatglm(heads, fused), folder)


def _check_sop(model: LanguageModel, file: Path) -> None:
    """Weights and tokenizer (which tells the model's `sop_id`) must agree where an answer begins."""
    ours: Any = getattr(model, "sop_id", None)
    theirs = read_json(file).get("bos_token_id") if file.exists() else None
    if theirs is not None and theirs != ours:
        raise UserError(
            f"{file}: an answer begins with id {theirs} (bos_token_id), but with {ours} in the tokenizer. "
            "Set language.tokenizer to the one that belongs to these weights."
        )


logger = logging.getLogger(__name__)


# tables that older versions of transformers wrote, and that every version computes
COMPUTED = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|attn\.(masked_)?bias|attention\.(masked_)?bias|embed_positions)")


def load_hf_language(model: LanguageModel, folder: Path) -> None:
    """Weights of a folder, safetensors or torch files, whole or in shards, into a causal or seq2seq language model.

    Each is cast to the dtype it has in the model. A model on the meta device gets memory on torch's current default
    device first. Weights that the family ties may be there once or several times; where their values differ, they are
    no longer tied.
    Raises UserError naming all missing, unexpected and misshapen keys; then nothing has been changed.
    """
    files = indexed(folder, "model", ".safetensors") or indexed(folder, "pytorch_model", ".bin")
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


def _names(network: Any, shards: Sequence[TensorShard]) -> dict[str, str]:
    """Key of a file -> name in the model, with or without the family's prefix; keys that mean nothing are left out."""
    own, prefix = set(network.state_dict()), f"{network.base_model_prefix}."
    useless = [re.compile(pattern) for pattern in network._keys_to_ignore_on_load_unexpected or ()]
    names = {}
    for key in (key for shard in shards for key in shard.shapes):
        candidates = (key, f"{prefix}{key}", key.removeprefix(prefix))
        name = next((candidate for candidate in candidates if candidate in own), None)
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
    own: Mapping[str, Tensor],
    names: Mapping[str, str],
    shards: Sequence[TensorShard],
    alike: Mapping[str, set[str]],
    folder: Path,
) -> None:
    found, problems = set(names.values()), []
    if missing := [name for name in own if not found & alike.get(name, {name})]:
        problems.append(f"missing: {', '.join(missing)}")
    if unexpected := [key for key, name in names.items() if name not in own]:
        problems.append(f"more than the model has: {', '.join(unexpected)}")
    if len(found) < len(names):
        twice = [key for key, name in names.items() if list(names.values()).count(name) > 1]
        problems.append(f"two names of one weight: {', '.join(twice)}")
    for shard in shards:
        for key, shape in shard.shapes.items():
            mine = own.get(names.get(key, ""))
            if mine is not None and list(shape) != list(mine.shape):
                problems.append(f"{key} is {list(shape)}, the model has {list(mine.shape)}")
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
def _copy_absent(network: nn.Module, found: set[str], alike: Mapping[str, set[str]]) -> None:
    """Weights that the model holds apart and the file tied."""
    state = network.state_dict(keep_vars=True)
    for name in set(state) & set(alike) - found:
        sources = [state[other] for other in sorted(found & alike[name])]
        if not any(state[name] is source for source in sources):
            state[name].copy_(sources[0])
