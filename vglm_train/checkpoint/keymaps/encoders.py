"""Names of published image encoders' weights, and ours. Every table is bijective but for what it lists as ignored."""

from vglm_train.checkpoint.keymaps.keymap import KeyMap, KeyRule, join_without_key_bias, rename, reshape, unbatch


def eva_rules(there: str, here: str) -> tuple[KeyRule, ...]:
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


EVA = KeyMap(
    rules=eva_rules("", ""),
    ignored=("norm.*", "fc_norm.*", "head.*", "rope.*"),  # what stands after the last block
)


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
