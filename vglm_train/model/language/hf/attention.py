"""Attention of transformers' models over short rows, in training: `language.attention` where it fits, SDPA elsewhere.

b rows, h heads, s queries, t keys, d width of a head.
"""

import threading
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel, masking_utils
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from vglm_train.model.language.attention import Scores, attend_short, fits
from vglm_train.model.language.hf.fused import SHORT_SDPA

# options of transformers' attention that change nothing here: SDPA does not read them either
HARMLESS = {"cache_position", "position_ids", "position_embeddings", "sliding_window", "use_cache"}
KNOWN = {"dropout", "scaling", "is_causal", "position_bias"} | HARMLESS


def short_sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' SDPA of queries [b,h,s,d] and keys and values [b,h,t,d] -> [b,s,h,d]."""
    scores = _scores(module, query, key, attention_mask, options)
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    if scores is None or not fits(q, k, v, scores):
        result: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return result
    return attend_short(q, k, v, scores), None


def _scores(
    module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, options: dict[str, Any]
) -> Scores | None:
    """None for what the kernels do not know: dropout, fewer key heads than heads, options that are not known here."""
    others = (value for name, value in options.items() if name not in KNOWN)
    if options.get("dropout") or any(value is not None and value is not False for value in others):
        return None
    causal, bias = options.get("is_causal"), options.get("position_bias")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    causal = bool(causal) and mask is None and query.shape[2] > 1
    if causal and query.shape[2] != key.shape[2]:
        return None
    if mask is not None and mask.dtype != torch.bool:
        if bias is not None:
            return None
        mask, bias = None, mask
    scale = options.get("scaling")
    return Scores(query.shape[3] ** -0.5 if scale is None else scale, bias, mask, causal)


AttentionInterface.register(SHORT_SDPA, short_sdpa)
AttentionMaskInterface.register(SHORT_SDPA, masking_utils.sdpa_mask)


def replace_attention(model: nn.Module, name: str, before: Container[str], families: Container[str] | None) -> None:
    """Give the parts of a model that use one of `before` the attention registered as `name`. families: None for all."""
    # an encoder and a decoder have configurations of their own, which transformers 5.17 leaves as they are
    for part in model.modules():
        if not isinstance(part, PreTrainedModel) or part.config._attn_implementation not in before:
            continue
        if families is None or family_of(type(part)) in families:
            part.set_attn_implementation(name)


@contextmanager
def whole_rows() -> Iterator[None]:
    """Within it, transformers takes each row for one sequence without padding, where it is given no mask.

    It would look at positions, and some versions at a mask of ones that they made. That is to wait for the device,
    which is computing the pictures then. Other threads are not within it.
    """
    _here.whole = True
    try:
        yield
    finally:
        _here.whole = False


def _known(look: Callable[..., Any], answer: Any) -> Callable[..., Any]:
    """`look`, but for `answer` within `whole_rows`."""

    @wraps(look)
    def known(*inputs: Any, **options: Any) -> Any:
        return answer if getattr(_here, "whole", False) else look(*inputs, **options)

    return known


_here = threading.local()
for _name, _answer in {"find_packed_sequence_indices": None, "fast_all": True}.items():
    setattr(masking_utils, _name, _known(getattr(masking_utils, _name), _answer))


def family_of(kind: type[nn.Module]) -> str:
    """The folder of `transformers.models` that has this class."""
    return kind.__module__.removeprefix("transformers.models.").partition(".")[0]
