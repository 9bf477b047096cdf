"""OPT's blocks in fewer passes over memory between the matrix products, each way, on a GPU.

A residual sum and the norm behind it are one kernel. Backward of the norm adds the gradient of the sum in the same
kernel, and backward of the three projections sums up in the products, so that autograd itself adds nothing. ReLU is the
end of the product before it. This is for frozen weights in 16 bits, without dropout, mask or cache. What does not fit
runs transformers' code: the whole block, the attention alone, or the one layer.

b rows, s tokens, w width, f width of the MLP.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vglm_train.autograd import apply
from vglm_train.model.language.hf import fused

# hooks see a module's own input and output, and adapters are hooks
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


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
        if drops or not self.do_layer_norm_before or not plain_pass(options):
            return False
        return all(fits_norm(norm, x) for norm in (self.self_attn_layer_norm, self.final_layer_norm))

    def _inner(self, x: Tensor) -> Tensor:
        """[...,w] -> [...,f]."""
        if is_bare(self.activation_fn, nn.ReLU) and fits_linear(self.fc1, x):
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
        linears = (self.q_proj, self.k_proj, self.v_proj)
        weights, biases = [each.weight for each in linears], [each.bias for each in linears]
        q, k, v = apply(_Projections, hidden_states, *weights, *biases)
        return self.out_proj(attend(q, k, v, self.num_heads)), None

    def _fits(self, x: Tensor, options: dict[str, Any]) -> bool:
        drops = self.training and self.dropout > 0
        own = self.config._attn_implementation == "sdpa" and self.is_causal
        if drops or not own or not plain_pass(options):
            return False
        return all(fits_linear(linear, x) for linear in (self.q_proj, self.k_proj, self.v_proj))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Causal attention of q, k, v [b,s,w] contiguous -> [b,s,w].

    SDPA scales scores by 1 / sqrt(w / heads) in fp32. transformers scales q, and rounds it once more by that.
    """
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


def add_norm(x: Tensor, added: Tensor | None, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """x, added [...,w] -> their sum (x itself, where added is None), and its norm."""
    if added is not None:
        added = added.to(x.dtype).contiguous()  # as it is already
    found: tuple[Tensor, Tensor] = apply(_AddNorm, x, added, norm.weight, norm.bias, norm.eps)
    return found


def plain_pass(options: dict[str, Any]) -> bool:
    """Whether a block or an attention is asked for its output alone, without mask and cache."""
    return all(value is None or value is False for name, value in options.items() if name != "position_ids")


def fits_norm(norm: nn.LayerNorm, x: Tensor) -> bool:
    fits = norm.normalized_shape == x.shape[-1:] and x.shape[-1] <= fused.WIDEST
    return fits and is_bare(norm, nn.LayerNorm) and _frozen(norm, x)


def fits_linear(linear: nn.Linear, x: Tensor) -> bool:
    return is_bare(linear, nn.Linear) and _frozen(linear, x)


def is_bare(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether it is torch's own module, which nothing wraps."""
    own = vars(module)
    return type(module) is kind and "forward" not in own and not any(own[name] for name in HOOKS)


def _frozen(module: nn.Linear | nn.LayerNorm, x: Tensor) -> bool:
    weights = (module.weight, module.bias)
    return x.dtype in fused.HALF and all(
        weight is not None and weight.dtype == x.dtype and not weight.requires_grad for weight in weights
    )


class _AddNorm(torch.autograd.Function):
    """x, added -> their sum and its norm. Whoever reads the sum gives its gradient to backward, which adds it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> Any:
        total, normed, mean, scale = fused.built().layer_norm(x, added, weight, bias, eps)
        ctx.save_for_backward(total, weight, mean, scale)
        return total, normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor, grad: Tensor) -> Any:
        dx = fused.built().layer_norm_backward(above.contiguous(), grad.contiguous(), *ctx.saved_tensors)
        return dx, dx if ctx.needs_input_grad[1] else None, None, None, None


class _Projections(torch.autograd.Function):
    """x [...,w] -> three linear layers of it: weights and biases are those of all three."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parts: Tensor) -> Any:
        weights, biases = parts[:3], parts[3:]
        ctx.save_for_backward(*weights)
        return tuple(F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        first, *others = zip(grads, ctx.saved_tensors, strict=True)
        dx = _rows(first[0]) @ first[1]
        for grad, weight in others:
            dx.addmm_(_rows(grad), weight)
        return dx.view(*grads[0].shape[:-1], -1), *[None] * 6


class _LinearRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out = torch._addmm_activation(bias, _rows(x), weight.t(), use_gelu=False).view(*x.shape[:-1], -1)
        ctx.save_for_backward(out, weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        out, weight = ctx.saved_tensors
        inner = torch.ops.aten.threshold_backward(grad, out, 0)
        return (_rows(inner) @ weight).view(*out.shape[:-1], -1), None, None


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])
