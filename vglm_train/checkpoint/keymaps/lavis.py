"""Names of published weights, and ours. Every table is bijective but for what it lists as ignored."""

from vglm_train.checkpoint.keymaps.bert import bert_rules, head_rules
from vglm_train.checkpoint.keymaps.encoders import eva_rules
from vglm_train.checkpoint.keymaps.keymap import KeyMap, KeyRule, join, rename, reshape, unbatch


def lavis_qformer_rules() -> tuple[KeyRule, ...]:
    """What LAVIS's `Qformer.py` adds to BERT: cross-attention and the queries' feed-forward."""
    layer, block = "Qformer.bert.encoder.layer.#.", "qformer.blocks.#."
    cross = f"{layer}crossattention."
    return (
        rename(f"{cross}self.query.*", f"{block}cross.query.*"),
        join([f"{cross}self.{part}.*" for part in ("key", "value")], f"{block}cross.key_value.*"),
        rename(f"{cross}output.dense.*", f"{block}cross.output.*"),
        rename(f"{cross}output.LayerNorm.*", f"{block}cross.norm.*"),
        rename(f"{layer}intermediate_query.dense.*", f"{block}query_mlp.up.*"),
        rename(f"{layer}output_query.dense.*", f"{block}query_mlp.down.*"),
        rename(f"{layer}output_query.LayerNorm.*", f"{block}query_mlp.norm.*"),
    )


LAVIS_STAGE1 = KeyMap(
    rules=(
        *eva_rules("visual_encoder.", "vision.encoder."),
        *bert_rules("Qformer.bert."),
        *lavis_qformer_rules(),
        *head_rules("Qformer.cls.predictions.", bias="decoder.bias"),
        rename("ln_vision.*", "vision_norm.*"),
        unbatch("query_tokens", "qformer.query_tokens"),
        rename("vision_proj.*", "image_projection.*"),
        rename("text_proj.*", "text_projection.*"),
        rename("itm_head.*", "matching_head.*"),
        reshape("temp", "temperature", (), (1,)),
    ),
    ignored=("Qformer.bert.embeddings.position_ids",),
    copies={
        "Qformer.cls.predictions.decoder.weight": "Qformer.bert.embeddings.word_embeddings.weight",
        "Qformer.cls.predictions.bias": "Qformer.cls.predictions.decoder.bias",
    },
)
"""`Blip2Qformer` of LAVIS, stage one, with its image encoder."""


def lavis_stage2(family: str) -> KeyMap:
    """`Blip2OPT` (causal) or `Blip2T5` (seq2seq) of LAVIS -> `VisualLanguageModel`, with frozen parts or without."""
    name = {"causal": "opt", "seq2seq": "t5"}[family]
    return KeyMap(
        rules=(
            *eva_rules("visual_encoder.", "vision.encoder."),
            *bert_rules("Qformer.bert."),  # of which stage two keeps what the queries need
            *lavis_qformer_rules(),
            rename("ln_vision.*", "vision_norm.*"),
            unbatch("query_tokens", "qformer.query_tokens"),
            rename(f"{name}_proj.*", "projection.*"),
            rename(f"{name}_model.*", "language.model.*"),
        ),
        ignored=("Qformer.bert.embeddings.position_ids",),
    )


"""Hugging Face `BertForPreTraining` or `BertForMaskedLM`."""

"""A bare EVA ViT file as LAVIS downloads it (`eva_vit_g.pth`), for `EvaVit`."""

"""Hugging Face CLIP or SigLIP, whole or the vision tower alone, for `HfVision`."""
