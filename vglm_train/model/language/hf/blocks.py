"""Blocks of transformers whose norms and residual sums are one kernel each way on a GPU.

A block adds what its attention computes to what it read, and norms the sum. Autograd adds the sum's gradient to that of
the norm, in a kernel of its own. Here backward of the norm adds it. This is for frozen norms in 16 bits, without
dropout, mask or cache. A block runs transformers' code everywhere else.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vglm_train.autograd import apply
from vglm_train.model.language.hf import fused
from vglm_train.model.language.hf.frozen import are_frozen
from vglm_train.model.language.hooks import is_wrapped

KNOWN = ("position_ids", "position_embeddings")  # what an attention is told, whatever the pass


class Block(nn.Module):
    """LLaMA's: an RMS norm before the attention and before the MLP."""

    self_attn: nn.Module
    mlp: nn.Module
    input_layernorm: fused.Norm
    post_attention_layernorm: fused.Norm

    def forward(self, hidden_states: Tensor, *inputs: Any, **options: Any) -> Any:
        if inputs or not fused.takes(hidden_states) or not self._fits(hidden_states, options):
            return super().forward(hidden_states, *inputs, **options)
        residual, normed = add_norm(hidden_states, None, self.input_layernorm)
        attended, _ = self.self_attn(hidden_states=normed, **options)
        residual, normed = add_norm(residual, attended, self.post_attention_layernorm)
        return residual + self.mlp(normed)

    def _fits(self, x: Tensor, options: dict[str, Any]) -> bool:
        norms = (self.input_layernorm, self.post_attention_layernorm)
        return is_plain(options) and all(fits_norm(norm, x) for norm in norms)


def add_norm(x: Tensor, added: Tensor | None, norm: nn.LayerNorm | fused.Norm) -> tuple[Tensor, Tensor]:
    """x, added [...,c] -> their sum (x itself, where added is None), and its norm."""
    if added is not None:
        added = added.to(x.dtype).contiguous()  # as it is already
    bias, eps = (None, norm.variance_epsilon) if isinstance(norm, fused.Norm) else (norm.bias, norm.eps)
    found: tuple[Tensor, Tensor] = apply(_AddNorm, x, added, norm.weight, bias, eps)
    return found


def is_plain(options: dict[str, Any]) -> bool:
    """Whether a block or an attention is asked for its output alone, without mask and cache."""
    return all(value is None or value is False for name, value in options.items() if name not in KNOWN)


def fits_norm(norm: nn.Module, x: Tensor) -> bool:
    if x.shape[-1] > fused.WIDEST or is_wrapped(norm):
        return False
    if isinstance(norm, fused.Norm):
        return not norm.takes_fp32 and are_frozen(x, norm.weight)
    return type(norm) is nn.LayerNorm and len(norm.normalized_shape) == 1 and are_frozen(x, norm.weight, norm.bias)


class _AddNorm(torch.autograd.Function):
    """x, added -> their sum and its norm. Whoever reads the sum gives its gradient to backward, which adds it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float) -> Any:
        total, normed, mean, scale = fused.built().add_norm(x, added, weight, bias, eps)
        ctx.save_for_backward(total, weight, mean, scale)
        return total, normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor, grad: Tensor) -> Any:
        dx = fused.built().add_norm_backward(above.contiguous(), grad.contiguous(), *ctx.saved_tensors)
        return dx, dx if ctx.needs_input_grad[1] else None, None, None, None
