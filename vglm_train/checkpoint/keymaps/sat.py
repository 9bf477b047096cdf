"""Folders that SwissArmyTransformer (SAT) saves: VisualGLM-6B whole, or its ChatGLM alone.

A folder holds `latest` (a number N, or a name), N/mp_rank_00_model_states.pt with its tensors under `module`, and
model_config.json. Sources: THUDM/VisualGLM-6B model/{visualglm,blip2}.py; SAT transformer_defaults.py.
"""

from typing import Literal

from torch import Tensor

from vglm_train.checkpoint.keymaps.keymap import KeyMap, KeyMapError, KeyRule, rename, reshape

IMAGE = "mixins.eva.model."  # before the names of VisualGLM's image side
Fused = Literal["thirds", "heads"]
"""Rows of a fused query, key and value: all queries, all keys, all values (SAT from 0.4.4 on); or q, k and v of each
head in turn (SAT before that, and ChatGLM-6B's Hugging Face files). Shapes agree: the file does not tell."""


def qkv(source: str, target: str, heads: int, fused: Fused) -> KeyRule:
    """A fused query, key and value there, weight or bias -> thirds here."""
    if fused == "thirds":
        return rename(source, target)

    def reorder(x: Tensor, outer: int, inner: int) -> tuple[Tensor]:
        if x.shape[0] % (3 * heads):
            raise KeyMapError(f"{x.shape[0]} rows are not queries, keys and values of {heads} heads")
        return (x.reshape(outer, inner, -1, *x.shape[1:]).transpose(0, 1).reshape(x.shape),)

    return KeyRule((source,), (target,), lambda x: reorder(x, heads, 3), lambda x: reorder(x, 3, heads))


def chatglm_rules(there: str, here: str, heads: int, fused: Fused) -> tuple[KeyRule, ...]:
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


def vision_rules(heads: int, fused: Fused, image: str = IMAGE) -> tuple[KeyRule, ...]:
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


def qformer_rules(layers: int, heads: int, fused: Fused, image: str = IMAGE) -> tuple[KeyRule, ...]:
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


def visualglm_table(layers: int, heads: dict[str, int], fused: Fused) -> KeyMap:
    """The same from numbers: blocks of the Q-Former, and heads by section of model_config.json ("": ChatGLM's)."""
    return KeyMap(
        rules=(*image_rules(layers, heads, fused), *sat_language(heads[""], fused, "language.").rules),
        ignored=("mixins.chatglm-attn.rotary_emb.inv_freq",),
    )


def image_rules(layers: int, heads: dict[str, int], fused: Fused, image: str = IMAGE) -> tuple[KeyRule, ...]:
    """All of VisualGLM but its ChatGLM, under a prefix."""
    return (
        *vision_rules(heads["eva_args"], fused, image),
        *qformer_rules(layers, heads["qformer_args"], fused, image),
        rename(f"{image}glm_proj.*", "projection.*"),
    )
