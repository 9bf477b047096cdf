"""T5's modules in fewer passes over memory and fewer launches on a GPU, and those of its like.

b rows, s tokens, t tokens that are looked at, w width, h heads, f width of the MLP.
"""

from typing import Any

import torch
from torch import Tensor, nn

from vglm_train.model.language.hf import fused
from vglm_train.model.language.hf.attention import short_sdpa
from vglm_train.model.language.hf.blocks import is_plain
from vglm_train.model.language.hf.frozen import project


class T5Norm(fused.Norm):
    """fp16 models have a residual stream in fp32."""

    takes_fp32 = True


class T5Mlp(nn.Module):
    act: nn.Module
    wi_0: nn.Module
    wi_1: nn.Module
    dropout: nn.Module
    wo: nn.Module

    def forward(self, x: Tensor) -> Any:
        if not fused.takes(x):
            return super().forward(x)
        hidden = self.dropout(fused.gated(self.act, *project(x, (self.wi_0, self.wi_1))))
        weight = self.wo.weight  # fp32 in an fp16 model; None once it is quantised
        if isinstance(weight, Tensor) and weight.is_floating_point():
            hidden = hidden.to(weight.dtype)
        return self.wo(hidden)


class T5Bias(nn.Module):
    def compute_bias(self, *inputs: Any, **options: Any) -> Any:
        """SDPA's fused kernels take only a bias whose last dimension is contiguous."""
        bias: Any = super()
        return bias.compute_bias(*inputs, **options).contiguous()


class T5Attention(T5Bias):
    config: Any
    q: nn.Module
    k: nn.Module
    v: nn.Module
    o: nn.Module
    n_heads: int
    scaling: float
    dropout: float
    has_relative_attention_bias: bool

    def forward(
        self,
        hidden_states: Tensor,
        mask: Tensor | None = None,
        key_value_states: Tensor | None = None,
        position_bias: Tensor | None = None,
        past_key_values: Any = None,
        **options: Any,
    ) -> Any:
        x, others = hidden_states, key_value_states
        if past_key_values is not None or not fused.takes(x) or not self._fits(others, options):
            return super().forward(x, mask, others, position_bias, past_key_values, **options)
        if others is None:
            q, k, v = project(x, (self.q, self.k, self.v))
        else:
            q, (k, v) = self.q(x), project(others, (self.k, self.v))
        if position_bias is None:
            position_bias = self._bias(x, k.shape[1])
        q, k, v = (part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in (q, k, v))
        mixed, _ = short_sdpa(self, q, k, v, mask, scaling=self.scaling, position_bias=position_bias)
        return self.o(mixed.flatten(2)), position_bias, None

    def _fits(self, others: Tensor | None, options: dict[str, Any]) -> bool:
        drops = self.training and self.dropout > 0
        own = self.config._attn_implementation == fused.SHORT_SDPA
        return own and not drops and is_plain(options) and (others is None or fused.takes(others))

    def _bias(self, x: Tensor, keys: int) -> Tensor:
        """[1,h,s,t] of the first block, which the others are given."""
        if not self.has_relative_attention_bias:
            return torch.zeros(1, self.n_heads, x.shape[1], keys, device=x.device, dtype=x.dtype)
        bias: Tensor = self.compute_bias(x.shape[1], keys, device=x.device)
        return bias
