"""Trained prefixes in the attention of transformers' models: SDPA with the keys and values of its module's adapter.

b rows, h heads, s new tokens, t tokens so far, d width of a head.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from vglm_train.errors import UserError
from vglm_train.model.language.adapter import Prefix
from vglm_train.model.language.hf.attention import replace_attention, short_sdpa
from vglm_train.model.language.hf.fused import SHORT_SDPA
from vglm_train.model.language.packed import PackedLinear

NAME = "prefixed_sdpa"
KEYS = ("k_proj", "k", "key")  # last names of the linear layer that makes keys
WIDTHS = ("head_dim", "key_value_proj_dim", "head_size")


def prefixed_sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' SDPA over keys and values [b,h,t,d], followed by those of the module's adapter."""
    prefix = getattr(module, "adapter", None)
    if not isinstance(prefix, Prefix):
        return short_sdpa(module, query, key, value, attention_mask, **options)
    s, t = query.shape[2], key.shape[2]
    causal = options.pop("is_causal", None)
    causal = getattr(module, "is_causal", True) if causal is None else causal
    if attention_mask is None and causal and s > 1:
        attention_mask = torch.ones(s, t, dtype=torch.bool, device=query.device).tril(t - s)[None, None]
    if attention_mask is not None:
        attention_mask = prefix.extend_mask(attention_mask)
    if options.get("position_bias") is not None:
        options["position_bias"] = prefix.extend_mask(options["position_bias"])
    key, value = prefix.append(key, value)
    return short_sdpa(module, query, key, value, attention_mask, is_causal=False, **options)


AttentionInterface.register(NAME, prefixed_sdpa)
AttentionMaskInterface.register(NAME, sdpa_mask)


def use_prefixes(model: Any) -> None:
    """Make a transformers model use `prefixed_sdpa`. UserError for one whose attention cannot be replaced."""
    before = model.config._attn_implementation
    replace_attention(model, NAME, {"sdpa", SHORT_SDPA}, None)
    if model.config._attn_implementation != NAME:
        raise UserError(
            f"tuning.prefix: the attention of {type(model).__name__} is its own ({before}), to which transformers "
            "can add nothing. Take tuning.lora."
        )


def self_attention(block: nn.Module, shape: Any) -> tuple[nn.Module, int, int]:
    """A block's self-attention, its number of key heads and the width of a head. `shape`: the model's config."""
    for module in block.modules():
        linears = {name: part for name, part in module.named_children() if isinstance(part, nn.Linear | PackedLinear)}
        fused = hasattr(module, "c_attn")  # GPT-2's linear layer is of another class
        if "attention" not in type(module).__name__.lower() or not (linears or fused):
            continue
        width = next((getattr(module, name) for name in WIDTHS if hasattr(module, name)), None)
        heads = getattr(shape, "num_attention_heads", 1)
        width = width or shape.hidden_size // heads
        keys = next((linears[name] for name in KEYS if name in linears), None)
        if keys is None:
            return module, getattr(shape, "num_key_value_heads", None) or heads, width
        outputs = keys.outputs if isinstance(keys, PackedLinear) else keys.out_features
        return module, int(outputs) // width, width
    raise UserError(f"tuning.prefix: no attention was found in {type(block).__name__}. Take tuning.lora.")
