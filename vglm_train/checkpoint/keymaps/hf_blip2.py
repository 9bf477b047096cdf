"""Names of Hugging Face's BLIP-2 classes, and ours. Every table is bijective.

What names do not say:
- The norm after the image encoder, trained by BLIP-2, has eps 1e-5 in LAVIS and here; transformers gives it the
  encoder's, 1e-6. With features of variance 1 the outputs differ by 5e-6 of their size. The other eps are the same:
  1e-6 in the encoder, 1e-12 in the Q-Former.
- The encoder's biases of queries, keys and values are one tensor, as here. In published weights the keys' third is
  zero, and it cannot change what the encoder computes.
- Retrieval has neither the contrastive temperature nor the captioning head, see `NOT_IN_RETRIEVAL`.
- Names that a language model ties stand in `state_dict` under every name, in files that transformers wrote under one.
"""

from dataclasses import replace

from vglm_train.checkpoint.keymaps.keymap import KeyMap, KeyRule, join, rename, reshape, unbatch


def vision_rules() -> tuple[KeyRule, ...]:
    """`Blip2VisionModel` -> `EvaVit` and the trained norm after it."""
    there, here = "vision_model.embeddings.", "vision.encoder."
    layer, block = "vision_model.encoder.layers.#.", "vision.encoder.blocks.#."
    return (
        reshape(f"{there}class_embedding", f"{here}class_token", (1, 1, -1), (-1,)),
        unbatch(f"{there}position_embedding", f"{here}positions"),
        rename(f"{there}patch_embedding.*", f"{here}patches.*"),
        rename(f"{layer}layer_norm1.*", f"{block}norm1.*"),
        rename(f"{layer}self_attn.qkv.*", f"{block}attention.qkv.*"),
        rename(f"{layer}self_attn.projection.*", f"{block}attention.output.*"),
        rename(f"{layer}layer_norm2.*", f"{block}norm2.*"),
        rename(f"{layer}mlp.fc1.*", f"{block}mlp.up.*"),
        rename(f"{layer}mlp.fc2.*", f"{block}mlp.down.*"),
        rename("vision_model.post_layernorm.*", "vision_norm.*"),
    )


def qformer_rules() -> tuple[KeyRule, ...]:
    """The queries' side of `Blip2QFormerModel`, which is all that generation has."""
    layer, block = "qformer.encoder.layer.#.", "qformer.blocks.#."
    own, cross = f"{layer}attention.", f"{layer}crossattention."
    return (
        unbatch("query_tokens", "qformer.query_tokens"),
        rename("qformer.layernorm.*", "qformer.norm.*"),
        join([f"{own}attention.{part}.*" for part in ("query", "key", "value")], f"{block}attention.qkv.*"),
        rename(f"{own}output.dense.*", f"{block}attention.output.*"),
        rename(f"{own}output.LayerNorm.*", f"{block}attention.norm.*"),
        rename(f"{cross}attention.query.*", f"{block}cross.query.*"),
        join([f"{cross}attention.{part}.*" for part in ("key", "value")], f"{block}cross.key_value.*"),
        rename(f"{cross}output.dense.*", f"{block}cross.output.*"),
        rename(f"{cross}output.LayerNorm.*", f"{block}cross.norm.*"),
        rename(f"{layer}intermediate_query.dense.*", f"{block}query_mlp.up.*"),
        rename(f"{layer}output_query.dense.*", f"{block}query_mlp.down.*"),
        rename(f"{layer}output_query.LayerNorm.*", f"{block}query_mlp.norm.*"),
    )


def text_rules() -> tuple[KeyRule, ...]:
    """The text's side of retrieval."""
    layer, block = "qformer.encoder.layer.#.", "qformer.blocks.#."
    return (
        rename("embeddings.word_embeddings.weight", "qformer.embeddings.words.weight"),
        rename("embeddings.position_embeddings.weight", "qformer.embeddings.positions.weight"),
        rename(f"{layer}intermediate.dense.*", f"{block}text_mlp.up.*"),
        rename(f"{layer}output.dense.*", f"{block}text_mlp.down.*"),
        rename(f"{layer}output.LayerNorm.*", f"{block}text_mlp.norm.*"),
    )


HF_BLIP2 = KeyMap(
    rules=(
        *vision_rules(),
        *qformer_rules(),
        rename("language_projection.*", "projection.*"),
        rename("language_model.*", "language.model.*"),
    ),
)
"""`Blip2ForConditionalGeneration`, with OPT, T5 or any other -> `VisualLanguageModel` with a Hugging Face language."""

HF_BLIP2_RETRIEVAL = KeyMap(
    rules=(
        *vision_rules(),
        *qformer_rules(),
        *text_rules(),
        rename("vision_projection.*", "image_projection.*"),
        rename("text_projection.*", "text_projection.*"),
        rename("itm_head.*", "matching_head.*"),
    ),
    ignored=("embeddings.position_ids",),  # of older files: the numbers from 0
)
"""`Blip2ForImageTextRetrieval` -> `Alignment`, but for what it has not."""

NOT_IN_RETRIEVAL = ("temperature", "caption_head.*")
"""Ours, without a place in `Blip2ForImageTextRetrieval`: an import leaves them as they are, an export loses them."""

TO_HF_BLIP2_RETRIEVAL = replace(HF_BLIP2_RETRIEVAL.inverse(), ignored=NOT_IN_RETRIEVAL)
"""`Alignment` -> `Blip2ForImageTextRetrieval`."""
