"""OPT's blocks in fewer passes over memory between the matrix products, each way, on a GPU.

Its norms are one kernel with their sums, as in every block. Backward of the three projections sums up in the products.
ReLU is the end of the product before it. What does not fit runs transformers' code: the whole block, the attention
alone, or the one layer.

b rows, s tokens, w width, f width of the MLP.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vglm_train.autograd import apply
from vglm_train.model.language.attention import attend
from vglm_train.model.language.hf import fused
from vglm_train.model.language.hf.blocks import add_norm, fits_norm, is_plain
from vglm_train.model.language.hf.frozen import fits_linear, project, rows
from vglm_train.model.language.hooks import is_wrapped


class OptBlock(nn.Module):
    self_attn: nn.Module
    self_attn_layer_norm: nn.LayerNorm
    final_layer_norm: nn.LayerNorm
    fc1: nn.Linear
    fc2: nn.Module
    activation_fn: nn.Module
    do_layer_norm_before: bool
    dropout: float

    def forward(self, hidden_states: Tensor, *inputs: Any, **options: Any) -> Any:
        if inputs or not fused.takes(hidden_states) or not self._fits(hidden_states, options):
            return super().forward(hidden_states, *inputs, **options)
        options.pop("use_cache", None)  # not known to the attention
        residual, normed = add_norm(hidden_states, None, self.self_attn_layer_norm)
        attended, _ = self.self_attn(hidden_states=normed, **options)
        residual, normed = add_norm(residual, attended, self.final_layer_norm)
        return residual + self.fc2(self._inner(normed))

    def _fits(self, x: Tensor, options: dict[str, Any]) -> bool:
        drops = self.training and self.dropout > 0
        if drops or not self.do_layer_norm_before or not is_plain(options):
            return False
        return all(fits_norm(norm, x) for norm in (self.self_attn_layer_norm, self.final_layer_norm))

    def _inner(self, x: Tensor) -> Tensor:
        """[...,w] -> [...,f]."""
        relu = type(self.activation_fn) is nn.ReLU and not is_wrapped(self.activation_fn)
        if relu and self.fc1.bias is not None and fits_linear(self.fc1, x):
            hidden: Tensor = apply(_LinearRelu, x, self.fc1.weight, self.fc1.bias)
        else:
            hidden = self.activation_fn(self.fc1(x))
        return hidden


class OptAttention(nn.Module):
    config: Any
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    out_proj: nn.Module
    num_heads: int
    dropout: float
    is_causal: bool

    def forward(self, hidden_states: Tensor, *inputs: Any, **options: Any) -> Any:
        if inputs or not fused.takes(hidden_states) or not self._fits(hidden_states, options):
            return super().forward(hidden_states, *inputs, **options)
        projected = project(hidden_states, (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)) for x in projected)
        # scores are scaled in fp32 by the same number; transformers scales q, and rounds it once more by that
        return self.out_proj(attend(q, k, v, causal=True)), None

    def _fits(self, x: Tensor, options: dict[str, Any]) -> bool:
        drops = self.training and self.dropout > 0
        own = self.config._attn_implementation in ("sdpa", fused.SHORT_SDPA) and self.is_causal
        if drops or not own or not is_plain(options):
            return False
        return all(fits_linear(linear, x) for linear in (self.q_proj, self.k_proj, self.v_proj))


class _LinearRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out = torch._addmm_activation(bias, rows(x), weight.t(), use_gelu=False).view(*x.shape[:-1], -1)
        ctx.save_for_backward(out, weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        out, weight = ctx.saved_tensors
        inner = torch.ops.aten.threshold_backward(grad, out, 0)
        return (rows(inner) @ weight).view(*out.shape[:-1], -1), None, None
