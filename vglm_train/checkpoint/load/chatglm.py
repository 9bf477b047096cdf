"""ChatGLM-6B and VisualGLM-6B as SwissArmyTransformer (SAT) and the Hugging Face hub hold them."""

import json
from pathlib import Path
from typing import Any

from vglm_train.checkpoint.keymaps.keymap import KeyMap, rename
from vglm_train.checkpoint.keymaps.sat import Fused, chatglm_rules, sat_language, visualglm_table
from vglm_train.checkpoint.load.fill import fill
from vglm_train.checkpoint.load.tensor_files import TensorFile, open_shard
from vglm_train.config.language import Language
from vglm_train.errors import UserError
from vglm_train.model.language.base import LanguageModel
from vglm_train.model.visual_language import VisualLanguageModel
from vglm_train.weights.identify import weight_files

CONFIG = "model_config.json"


def is_sat_folder(folder: Path) -> bool:
    return (folder / "latest").exists() or (folder / CONFIG).exists()


def sat_visualglm(model: VisualLanguageModel, fused: Fused = "thirds") -> KeyMap:
    """VisualGLM's SAT folder -> `VisualLanguageModel` with EVA ViT and ChatGLM, of this model's depth and heads."""
    return visualglm_table(len(model.qformer.blocks), _heads(model), fused)


def load_visualglm(model: VisualLanguageModel, folder: Path, fused: Fused = "thirds") -> None:
    """All of VisualGLM from a SAT folder: image encoder, norm, Q-Former, projection and ChatGLM.

    Raises UserError if the folder cannot be read, or naming every tensor that does not fit; then nothing has changed.
    """
    check_heads(folder, _heads(model))
    fill(model, [sat_shard(folder)], sat_visualglm(model, fused), folder)


def sat_shard(folder: Path) -> TensorFile:
    """The tensors of a SAT folder, unread. Raises UserError where they are missing or split over several files."""
    latest = folder / "latest"
    if not latest.is_file():
        raise UserError(
            f"{folder} has no file `latest`, which names the folder with the weights. Complete the download."
        )
    inner = folder / latest.read_text("utf-8").strip()
    files = sorted(inner.glob("mp_rank_*_model_states.pt"))
    if len(files) > 1:
        raise UserError(
            f"{inner} holds {len(files)} parts of a model split over as many GPUs: merge them with SAT first."
        )
    return open_shard(files[0] if files else inner / "mp_rank_00_model_states.pt", "module")


def check_heads(folder: Path, heads: dict[str, int]) -> None:
    """What no shape says: the numbers of attention heads, by section of model_config.json ("": its top)."""
    file = folder / CONFIG
    if not file.exists():
        return
    config = read_json(file)
    for section, configured in heads.items():
        recorded = (config.get(section) or {} if section else config).get("num_attention_heads")
        if recorded is not None and recorded != configured:
            where = f"{section}.num_attention_heads" if section else "num_attention_heads"
            raise UserError(
                f"{file}: {where} is {recorded}, the configured model has {configured}. Correct the model section."
            )


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; UserError if it is none."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}. Download it again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: a JSON object is expected. Download it again.")
    return content


def _heads(model: VisualLanguageModel) -> dict[str, int]:
    """Attention heads of the parts, by section of model_config.json."""
    encoder: Any = model.vision.encoder
    language: Any = model.language
    return {
        "eva_args": encoder.blocks[0].attention.heads,
        "qformer_args": model.qformer.blocks[0].attention.heads,
        "": language.heads,
    }


HUB_CONFIG = "config.json"


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


def chatglm_files(
    model: LanguageModel, config: Language, folder: Path, fused: Fused | None
) -> tuple[list[TensorFile], KeyMap]:
    """The files of a published ChatGLM, unread, and the table of their names. `fused` as in `load_language`.

    Raises UserError where the folder holds none, or its configuration contradicts ours.
    """
    if is_sat_folder(folder):
        check_heads(folder, {"": config.heads})
        _check_sop(model, folder / CONFIG)
        return [sat_shard(folder)], sat_language(config.heads, fused or "thirds")
    _check_sop(model, folder / HUB_CONFIG)
    if (folder / HUB_CONFIG).exists():
        recorded = read_json(folder / HUB_CONFIG).get("num_attention_heads")
        if recorded is not None and recorded != config.heads:
            raise UserError(
                f"{folder / HUB_CONFIG}: num_attention_heads is {recorded}, the configured model has {config.heads}. "
                "Correct language.heads."
            )
    table = hub_chatglm(config.heads, fused or "heads")
    if not (files := weight_files(folder)):
        raise UserError(
            f"language.weights: {folder} holds neither a SAT checkpoint (latest, model_config.json) nor weights of "
            "Hugging Face (model.safetensors or pytorch_model.bin, with .index.json if in parts)."
        )
    return [open_shard(file) for file in files], table


def _check_sop(model: LanguageModel, file: Path) -> None:
    """Weights and tokenizer (which gives the model its `sop_id`) must agree where an answer begins."""
    expected: Any = getattr(model, "sop_id", None)
    recorded = read_json(file).get("bos_token_id") if file.exists() else None
    if recorded is not None and recorded != expected:
        raise UserError(
            f"{file}: an answer begins with id {recorded} (bos_token_id), but with {expected} in the tokenizer. "
            "Set language.tokenizer to the one that belongs to these weights."
        )
