"""Folders that SwissArmyTransformer (SAT) saves: VisualGLM-6B whole, or its ChatGLM alone.

A folder holds `latest` (a number N, or a name), N/mp_rank_00_model_states.pt with its tensors under `module`, and
model_config.json. Sources: THUDM/VisualGLM-6B model/{visualglm,blip2}.py; SAT transformer_defaults.py.
"""

import json
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from vglm_train.checkpoint.keymaps.keymap import KeyMap, KeyMapError, Rule, rename, reshape
from vglm_train.checkpoint.load.tensor_files import Shard, fill, open_shard
from vglm_train.errors import UserError
from vglm_train.model.visual_language import VisualLanguageModel

CONFIG = "model_config.json"
IMAGE = "mixins.eva.model."  # before the names of VisualGLM's image side
Fused = Literal["thirds", "heads"]
"""Rows of a fused query, key and value: all queries, all keys, all values (SAT from 0.4.4 on); or q, k and v of each
head in turn (SAT before that, and ChatGLM-6B's Hugging Face files). Shapes agree: the file does not tell."""


def is_sat_folder(folder: Path) -> bool:
    return (folder / "latest").exists() or (folder / CONFIG).exists()


def qkv(source: str, target: str, heads: int, fused: Fused) -> Rule:
    """A fused query, key and value there, weight or bias -> thirds here."""
    if fused == "thirds":
        return rename(source, target)

    def reorder(x: Tensor, outer: int, inner: int) -> tuple[Tensor]:
        if x.shape[0] % (3 * heads):
            raise KeyMapError(f"{x.shape[0]} rows are not queries, keys and values of {heads} heads")
        return (x.reshape(outer, inner, -1, *x.shape[1:]).transpose(0, 1).reshape(x.shape),)

    return Rule((source,), (target,), lambda x: reorder(x, heads, 3), lambda x: reorder(x, 3, heads))


def chatglm_rules(there: str, here: str, heads: int, fused: Fused) -> tuple[Rule, ...]:
    """ChatGLM's embeddings, blocks and last norm; all but the attention's fused product keep SAT's names."""
    attention = "transformer.layers.#.attention.query_key_value.*"
    return (
        qkv(f"{there}{attention}", f"{here}network.{attention}", heads, fused),
        rename(f"{there}transformer.*", f"{here}network.transformer.*"),
    )


def sat_language(heads: int, fused: Fused = "thirds", here: str = "") -> KeyMap:
    """A SAT folder -> `ChatGlm` under a prefix; VisualGLM's image side is left out."""
    head = "mixins.chatglm-final.lm_head.weight"
    return KeyMap(
        rules=(*chatglm_rules("", here, heads, fused), rename(head, f"{here}network.{head}")),
        ignored=("mixins.chatglm-attn.rotary_emb.inv_freq", "mixins.eva.*"),
    )


def vision_rules(heads: int, fused: Fused, image: str = IMAGE) -> tuple[Rule, ...]:
    """SAT's EVA ViT and the norm after it -> `VisualModel`."""
    there, here = f"{image}vit.", "vision.encoder."
    layer, block = f"{there}transformer.layers.#.", f"{here}blocks.#."
    return (
        reshape(f"{there}transformer.word_embeddings.weight", f"{here}class_token", (1, -1), (-1,)),
        rename(f"{there}transformer.position_embeddings.weight", f"{here}positions"),
        rename(f"{there}mixins.patch_embedding.proj.*", f"{here}patches.*"),
        rename(f"{there}mixins.cls.ln_vision.*", "vision_norm.*"),
        qkv(f"{layer}attention.query_key_value.*", f"{block}attention.qkv.*", heads, fused),
        rename(f"{layer}attention.dense.*", f"{block}attention.output.*"),
        rename(f"{layer}input_layernorm.*", f"{block}norm1.*"),
        rename(f"{layer}post_attention_layernorm.*", f"{block}norm2.*"),
        rename(f"{layer}mlp.dense_h_to_4h.*", f"{block}mlp.up.*"),
        rename(f"{layer}mlp.dense_4h_to_h.*", f"{block}mlp.down.*"),
    )


def qformer_rules(layers: int, heads: int, fused: Fused, image: str = IMAGE) -> tuple[Rule, ...]:
    """SAT's Q-Former, which norms a block's input rather than its output: each last norm stands one block later."""
    there, layer = f"{image}qformer.transformer.", f"{image}qformer.transformer.layers.#."
    block, last = "qformer.blocks.#.", "query_mlp.norm.*"
    shifted = [
        rename(f"{there}layers.{number + 1}.input_layernorm.*", f"qformer.blocks.{number}.{last}")
        for number in range(layers - 1)
    ]
    return (
        rename(f"{there}word_embeddings.weight", "qformer.query_tokens"),
        rename(f"{there}layers.0.input_layernorm.*", "qformer.norm.*"),
        *shifted,
        rename(f"{there}final_layernorm.*", f"qformer.blocks.{layers - 1}.{last}"),
        qkv(f"{layer}attention.query_key_value.*", f"{block}attention.qkv.*", heads, fused),
        rename(f"{layer}attention.dense.*", f"{block}attention.output.*"),
        rename(f"{layer}post_attention_layernorm.*", f"{block}attention.norm.*"),
        rename(f"{layer}cross_attention.query.*", f"{block}cross.query.*"),
        rename(f"{layer}cross_attention.key_value.*", f"{block}cross.key_value.*"),
        rename(f"{layer}cross_attention.dense.*", f"{block}cross.output.*"),
        rename(f"{layer}post_cross_attention_layernorm.*", f"{block}cross.norm.*"),
        rename(f"{layer}mlp.dense_h_to_4h.*", f"{block}query_mlp.up.*"),
        rename(f"{layer}mlp.dense_4h_to_h.*", f"{block}query_mlp.down.*"),
    )


def sat_visualglm(model: VisualLanguageModel, fused: Fused = "thirds") -> KeyMap:
    """VisualGLM's SAT folder -> `VisualLanguageModel` with EVA ViT and ChatGLM, of this model's depth and heads."""
    return visualglm_table(len(model.qformer.blocks), _heads(model), fused)


def visualglm_table(layers: int, heads: dict[str, int], fused: Fused) -> KeyMap:
    """The same from numbers: blocks of the Q-Former, and heads by section of model_config.json ("": ChatGLM's)."""
    return KeyMap(
        rules=(*image_rules(layers, heads, fused), *sat_language(heads[""], fused, "language.").rules),
        ignored=("mixins.chatglm-attn.rotary_emb.inv_freq",),
    )


def image_rules(layers: int, heads: dict[str, int], fused: Fused, image: str = IMAGE) -> tuple[Rule, ...]:
    """All of VisualGLM but its ChatGLM, under a prefix."""
    return (
        *vision_rules(heads["eva_args"], fused, image),
        *qformer_rules(layers, heads["qformer_args"], fused, image),
        rename(f"{image}glm_proj.*", "projection.*"),
    )


def load_visualglm(model: VisualLanguageModel, folder: Path, fused: Fused = "thirds") -> None:
    """All of VisualGLM from a SAT folder: image encoder, norm, Q-Former, projection and ChatGLM.

    Raises UserError if the folder cannot be read, or naming every tensor that does not fit; then nothing has changed.
    """
    check_heads(folder, _heads(model))
    fill(model, [sat_shard(folder)], sat_visualglm(model, fused), folder)


def sat_shard(folder: Path) -> Shard:
    """The tensors of a SAT folder, unread. Raises UserError where they are not there or split over several files."""
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
    """What no shape tells: the numbers of attention heads, by section of model_config.json ("": its top)."""
    file = folder / CONFIG
    if not file.exists():
        return
    config = read_json(file)
    for section, ours in heads.items():
        theirs = (config.get(section) or {} if section else config).get("num_attention_heads")
        if theirs is not None and theirs != ours:
            where = f"{section}.num_attention_heads" if section else "num_attention_heads"
            raise UserError(f"{file}: {where} is {theirs}, the configured model has {ours}. Correct the model section.")


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
