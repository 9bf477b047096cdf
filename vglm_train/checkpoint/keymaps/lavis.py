"""Names of published weights, and ours. Every table is bijective but for what it lists as ignored."""

from vglm_train.checkpoint.keymaps.keymap import KeyMap, Rule, join, join_without_key_bias, rename, reshape, unbatch


def eva_rules(there: str, here: str) -> tuple[Rule, ...]:
    """EVA ViT as in LAVIS (`lavis/models/eva_vit.py`) under a prefix -> `EvaVit` under a prefix."""
    block, ours = f"{there}blocks.#.", f"{here}blocks.#."
    return (
        reshape(f"{there}cls_token", f"{here}class_token", (1, 1, -1), (-1,)),
        unbatch(f"{there}pos_embed", f"{here}positions"),
        rename(f"{there}patch_embed.proj.*", f"{here}patches.*"),
        rename(f"{block}norm1.*", f"{ours}norm1.*"),
        rename(f"{block}norm2.*", f"{ours}norm2.*"),
        rename(f"{block}attn.qkv.weight", f"{ours}attention.qkv.weight"),
        join_without_key_bias(f"{block}attn.q_bias", f"{block}attn.v_bias", f"{ours}attention.qkv.bias"),
        rename(f"{block}attn.proj.*", f"{ours}attention.output.*"),
        rename(f"{block}mlp.fc1.*", f"{ours}mlp.up.*"),
        rename(f"{block}mlp.fc2.*", f"{ours}mlp.down.*"),
    )


def bert_rules(there: str) -> tuple[Rule, ...]:
    """The part of BERT that every pass shares, and the text feed-forward, under a prefix -> `Alignment`."""
    layer, block = f"{there}encoder.layer.#.", "qformer.blocks.#."
    attention = f"{layer}attention.self."
    return (
        rename(f"{there}embeddings.word_embeddings.weight", "qformer.embeddings.words.weight"),
        rename(f"{there}embeddings.position_embeddings.weight", "qformer.embeddings.positions.weight"),
        rename(f"{there}embeddings.LayerNorm.*", "qformer.norm.*"),
        join([f"{attention}{part}.*" for part in ("query", "key", "value")], f"{block}attention.qkv.*"),
        rename(f"{layer}attention.output.dense.*", f"{block}attention.output.*"),
        rename(f"{layer}attention.output.LayerNorm.*", f"{block}attention.norm.*"),
        rename(f"{layer}intermediate.dense.*", f"{block}text_mlp.up.*"),
        rename(f"{layer}output.dense.*", f"{block}text_mlp.down.*"),
        rename(f"{layer}output.LayerNorm.*", f"{block}text_mlp.norm.*"),
    )


def head_rules(there: str, bias: str) -> tuple[Rule, ...]:
    """BERT's masked-language head under a prefix -> `CaptionHead`."""
    return (
        rename(f"{there}transform.dense.*", "caption_head.transform.*"),
        rename(f"{there}transform.LayerNorm.*", "caption_head.norm.*"),
        rename(f"{there}{bias}", "caption_head.bias"),
    )


def lavis_qformer_rules() -> tuple[Rule, ...]:
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


BERT = KeyMap(
    rules=(*bert_rules("bert."), *head_rules("cls.predictions.", bias="bias")),
    ignored=(
        "bert.embeddings.position_ids",
        "bert.embeddings.token_type_embeddings.weight",  # the Q-Former's texts have no second segment
        "bert.pooler.*",
        "cls.seq_relationship.*",
    ),
    copies={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
)
"""Hugging Face `BertForPreTraining` or `BertForMaskedLM`."""

EVA = KeyMap(
    rules=eva_rules("", ""),
    ignored=("norm.*", "fc_norm.*", "head.*", "rope.*"),  # what stands after the last block
)
"""A bare EVA ViT file as LAVIS downloads it (`eva_vit_g.pth`), for `EvaVit`."""

HF_VISION = KeyMap(
    rules=tuple(
        rename(f"vision_model.{part}.*", f"tower.{part}.*") for part in ("embeddings", "encoder", "pre_layrnorm")
    ),
    ignored=(
        "text_model.*",
        "logit_scale",
        "logit_bias",
        "visual_projection.*",
        "text_projection.*",
        "vision_model.post_layernorm.*",
        "vision_model.head.*",
        "vision_model.embeddings.position_ids",
    ),
)
"""Hugging Face CLIP or SigLIP, whole or the vision tower alone, for `HfVision`."""
