"""Names of BERT's weights, and the Q-Former's."""

from vglm_train.checkpoint.keymaps.keymap import KeyMap, KeyRule, join, rename


def bert_rules(there: str) -> tuple[KeyRule, ...]:
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


def head_rules(there: str, bias: str) -> tuple[KeyRule, ...]:
    """BERT's masked-language head under a prefix -> `CaptionHead`."""
    return (
        rename(f"{there}transform.dense.*", "caption_head.transform.*"),
        rename(f"{there}transform.LayerNorm.*", "caption_head.norm.*"),
        rename(f"{there}{bias}", "caption_head.bias"),
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
