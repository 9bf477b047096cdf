"""Published weights into a frozen language model, shard by shard."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from vglm_train.checkpoint.keymaps.keymap import KeyMap, rename
from vglm_train.checkpoint.keymaps.sat import (
    CONFIG,
    Fused,
    chatglm_rules,
    check_heads,
    is_sat_folder,
    read_json,
    sat_language,
    sat_shard,
)
from vglm_train.checkpoint.load.pretrained import load_strictly, read_weights
from vglm_train.checkpoint.load.tensor_files import fill, indexed, open_shard
from vglm_train.config.language import Language
from vglm_train.errors import UserError
from vglm_train.model.language import LanguageModel

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
    if not folder.is_dir():
        raise UserError(
            f"language.weights: {folder} is not a folder. Give the folder that the model was downloaded to."
        )
    if config.family != "chatglm":
        # transformers is imported for its models only
        from vglm_train.checkpoint.load.hf_language import load_hf_language

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
