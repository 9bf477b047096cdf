"""Frozen towers from a file or folder of their own, under our names, unread."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vglm_train.checkpoint.convert import qkv
from vglm_train.checkpoint.convert.source import mapped, open_tensors
from vglm_train.checkpoint.keymaps.encoders import EVA, HF_VISION
from vglm_train.checkpoint.keymaps.sat import Fused, sat_language
from vglm_train.checkpoint.load.chatglm import CONFIG, hub_chatglm, is_sat_folder, read_json, sat_shard
from vglm_train.checkpoint.load.hf_language import as_published
from vglm_train.checkpoint.load.hf_vision import vision_folder
from vglm_train.checkpoint.load.lazy_tensors import Lazy, Tensors, below, changed, of_shards, prefixed
from vglm_train.checkpoint.load.tensor_files import open_shard
from vglm_train.config.language import Language
from vglm_train.config.model import Vision
from vglm_train.errors import UserError
from vglm_train.model.vision import build_vision


def vision_tensors(path: Path, config: Vision) -> Tensors:
    """An image encoder of the configured family: our own file, LAVIS's EVA, or a Hugging Face folder.

    Blocks beyond the configured depth and what follows the last block are left out.
    """
    if config.family == "auto":
        with torch.device("meta"):
            encoder = build_vision(replace(config, weights=str(path))).encoder
        return vision_folder(path, encoder)
    raw = cut(open_tensors(path), config.depth)
    if "class_token" in raw or any(name.startswith("tower.") for name in raw):
        return raw
    if config.family == "eva":
        raw = below(raw, "visual_encoder.") or raw
        return mapped(EVA, raw, path)
    if not any(name.startswith("vision_model.") for name in raw):
        raw = prefixed(raw, "vision_model.")
    return mapped(HF_VISION, raw, path)


def language_tensors(path: Path, config: Language, fused: Fused | None = None) -> Tensors:
    """A language model of the configured family: our own file, a SAT folder, or a Hugging Face folder.

    fused: the order of ChatGLM's queries, keys and values, if it is not the layout's own.
    """
    if path.is_file():
        return of_shards([open_shard(path)])
    if config.family != "chatglm":
        return hugging_face_language(path)
    if is_sat_folder(path):
        return mapped(sat_language(config.heads, fused or "thirds"), of_shards([sat_shard(path)]), path)
    return mapped(hub_chatglm(config.heads, fused or "heads"), open_tensors(path), path)


def chatglm_order(path: Path, heads: int, option: Fused | None) -> tuple[Fused, str]:
    """The order of a ChatGLM's queries, keys and values, and a line that says why. UserError as `qkv.choose_order`."""
    sat = is_sat_folder(path)
    raw = of_shards([sat_shard(path)]) if sat else open_tensors(path)
    language = {name: tensor for name, tensor in raw.items() if name.startswith("transformer.")}
    recorded: Fused = "heads"
    if sat:
        recorded = qkv.recorded_order(read_json(path / CONFIG) if (path / CONFIG).is_file() else {})
    return qkv.choose_order(option, recorded, qkv.measured_order(language, heads), str(path))


def hugging_face_language(folder: Path) -> Tensors:
    """Any language model of transformers, under the names of its files; see `as_loaded`."""
    return prefixed(open_tensors(folder), "model.")


def cut(weights: Mapping[str, Lazy], depth: int) -> Tensors:
    """Without an image encoder's blocks from number `depth` on."""
    kept = {}
    for key, value in weights.items():
        block = re.search(r"^(?!text_model).*?(?:blocks|layers)\.(\d+)\.", key)
        if not block or int(block[1]) < depth:
            kept[key] = value
    return kept


def as_loaded(language: Tensors, model: Any) -> tuple[Tensors, list[str]]:
    """A Hugging Face language model's files as transformers loads them, and keys that mean nothing.

    `model`: a `HuggingFaceLanguage`, whose names begin with `model.`
    Keys are renamed, and weights cut or stacked, by transformers' own rules. Names that a family ties and the file
    holds once stand for the same tensor. What the model has no place for stays, for `check` to name.
    UserError for keys that do not belong together.
    """
    published = as_published(model.model, below(language, "model."))
    if published.problems:
        raise UserError(f"the language model's files do not fit its config.json: {'; '.join(published.problems)}.")
    named = prefixed(published.tensors, "model.") | {
        f"model.{key}": language[f"model.{key}"] for key in published.unknown
    }
    known = {f"model.{name}" for name in model.model.state_dict()}
    pairs = model.model.get_expanded_tied_weights_keys(all_submodels=True)
    for _ in range(2):  # a name may be tied to one that is itself tied
        for copy, original in pairs.items():
            one, other = f"model.{copy}", f"model.{original}"
            for absent, present in ((one, other), (other, one)):
                if absent not in named and present in named and absent in known:
                    named[absent] = named[present]
    return named, published.useless


def repeated(language: Tensors, model: Any) -> set[str]:
    """Names whose values another name holds as well, by the family's ties: transformers' files leave them out."""
    names = set()
    for copy, original in model.model.get_expanded_tied_weights_keys(all_submodels=True).items():
        one, other = language.get(f"model.{copy}"), language.get(f"model.{original}")
        if one is None or other is None:
            continue
        if one is other or (one.shape == other.shape and one.read().equal(other.read())):
            names.add(f"model.{copy}")
    return names


def with_rows(tensors: Tensors, model: Any, rows: int) -> Tensors:
    """A model whose `HuggingFaceLanguage`, whose names begin with `language.`, has embeddings and head of `rows` rows.

    A new row is the mean of the others. So a token that is not to be written never has the largest logit.
    """
    network = model.model
    parts = (network.get_input_embeddings(), network.get_output_embeddings())
    own = {id(parameter) for part in parts for parameter in part.parameters(recurse=False)}
    larger = {}
    for name, parameter in network.state_dict(keep_vars=True).items():
        tensor = tensors.get(f"language.model.{name}")
        axis = 0 if id(parameter) in own else 1 if name == "final_logits_bias" else None
        if tensor is not None and axis is not None:
            shape = [*tensor.shape[:axis], rows, *tensor.shape[axis + 1 :]]
            larger[f"language.model.{name}"] = changed(tensor, partial(_longer, axis=axis, length=rows), shape)
    return tensors | larger


def _longer(tensor: Tensor, axis: int, length: int) -> Tensor:
    mean = tensor.float().mean(axis, keepdim=True).to(tensor.dtype)
    return torch.cat((tensor, mean.repeat_interleave(length - tensor.shape[axis], axis)), axis)


def has_untied_head(language: Tensors, model: Any) -> bool:
    """Whether the file holds a head whose values are not the embeddings', although the family ties them."""
    head = next((name for name in model.model.state_dict() if name.endswith("lm_head.weight")), None)
    pairs = model.model.get_expanded_tied_weights_keys(all_submodels=True)
    return head in pairs and f"model.{head}" not in repeated(language, model)


def config_of(folder: Path) -> dict[str, Any]:
    """config.json of a Hugging Face language model. UserError if there is none."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is no Hugging Face language model: there is no config.json.")
    return read_json(folder / "config.json")
