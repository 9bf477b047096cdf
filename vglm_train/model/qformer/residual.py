"""How each part of a block ends: dropout, residual and norm. One kernel each way on a GPU, torch's own elsewhere.

n rows, s tokens, i inputs, w width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vglm_train.model.norm import LayerNorm
from vglm_train.model.qformer import kernels

MOST = 4096  # channels that one program holds


def add_and_norm(linear: nn.Linear, x: Tensor, hidden: Tensor, norm: LayerNorm, dropout: float) -> Tensor:
    """norm(dropout(linear(x)) + hidden): x [n,s,i], hidden [n,s,w] -> [n,s,w]."""
    if not fuses(linear, hidden):
        normed: Tensor = norm(F.dropout(linear(x), dropout) + hidden)
        return normed
    # backward's kernel adds up the bias's gradient as well, which another would have to read everything again for
    y = F.linear(x, linear.weight, linear.bias.detach())
    weights = (part.to(y.dtype) for part in (linear.bias, norm.weight, norm.bias))
    seed = kernels.seed_of(dropout, y.device)
    normed = torch.ops.vglm.add_norm(y, hidden, *weights, seed, norm.eps, dropout)[0]
    return normed


def fuses(linear: nn.Linear, hidden: Tensor) -> bool:
    """Whether the kernels compute it."""
    if not hidden.is_cuda or hidden.dtype not in kernels.HALF or not hidden.is_contiguous():
        return False
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else linear.weight.dtype
    return dtype == hidden.dtype and hidden.shape[-1] <= MOST and kernels.available()


@torch.library.custom_op("vglm::add_norm", mutates_args=(), device_types="cuda")
def _add_norm(
    y: Tensor, hidden: Tensor, y_bias: Tensor, weight: Tensor, bias: Tensor, seed: Tensor, eps: float, dropout: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    built = kernels.built()
    assert built is not None
    found: tuple[Tensor, Tensor, Tensor, Tensor] = built.residual.forward(y, hidden, weight, bias, seed, eps, dropout)
    return found


@torch.library.custom_op("vglm::add_norm_backward", mutates_args=(), device_types="cuda")
def _add_norm_backward(
    grad: Tensor, added: Tensor, weight: Tensor, seed: Tensor, mean: Tensor, scale: Tensor, dropout: float
) -> tuple[Tensor, Tensor, Tensor]:
    built = kernels.built()
    assert built is not None
    grads: tuple[Tensor, Tensor, Tensor] = built.residual.backward(
        grad.contiguous(), added, weight, seed, mean, scale, dropout
    )
    return grads


@_add_norm.register_fake
def _(y: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = y.numel() // y.shape[-1]
    one, other = (y.new_empty(rows, dtype=torch.float32) for _ in range(2))
    return torch.empty_like(y), torch.empty_like(y), one, other


@_add_norm_backward.register_fake
def _(grad: Tensor, added: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(added), torch.empty_like(added), added.new_empty(3, added.shape[-1], dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, _, _, weight, _, seed, _, ctx.dropout = inputs
    ctx.save_for_backward(weight, seed, *output[1:])
    ctx.set_materialize_grads(False)  # of what is returned for backward alone


def _gradients(ctx: Any, grad: Tensor, *_: Any) -> Any:
    weight, seed, added, mean, scale = ctx.saved_tensors
    dy, dhidden, sums = torch.ops.vglm.add_norm_backward(grad, added, weight, seed, mean, scale, ctx.dropout)
    of_y, of_weight, of_bias = sums.to(weight.dtype).unbind()
    return dy, dhidden, of_y, of_weight, of_bias, None, None, None


_add_norm.register_autograd(_gradients, setup_context=_save)
