"""How each part of a block ends: dropout, residual and norm. One kernel each way on a GPU, torch's own elsewhere.

n rows, s tokens, i inputs, w width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vglm_train.autograd import apply
from vglm_train.model.norm import LayerNorm
from vglm_train.model.qformer import kernels

MOST = 4096  # channels that one program holds


def add_and_norm(linear: nn.Linear, x: Tensor, hidden: Tensor, norm: LayerNorm, dropout: float) -> Tensor:
    """norm(dropout(linear(x)) + hidden): x [n,s,i], hidden [n,s,w] -> [n,s,w]."""
    if not fuses(linear, hidden):
        normed: Tensor = norm(F.dropout(linear(x), dropout) + hidden)
        return normed
    # backward's kernel adds up the bias's gradient as well, which another would have to read everything again for
    y_bias, weight, bias = (part.to(hidden.dtype) for part in (linear.bias, norm.weight, norm.bias))
    y = F.linear(x, linear.weight, y_bias.detach())
    normed = apply(_AddNorm, y, hidden, y_bias, weight, bias, norm.eps, dropout)
    return normed


def fuses(linear: nn.Linear, hidden: Tensor) -> bool:
    """Whether the kernels compute it. A compiler fuses the plain operations itself."""
    if torch.compiler.is_compiling() or not hidden.is_cuda or not hidden.is_contiguous():
        return False
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else linear.weight.dtype
    narrow = dtype == hidden.dtype and dtype in kernels.HALF and hidden.shape[-1] <= MOST
    return narrow and kernels.available()


class _AddNorm(torch.autograd.Function):
    """norm(dropout(y) + hidden); `y_bias` was added to y before."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, hidden: Tensor, y_bias: Tensor, weight: Tensor, bias: Tensor, eps: float, dropout: float
    ) -> Tensor:
        built = kernels.built()
        assert built is not None
        seed = torch.randint(2**62, (1,), dtype=torch.int64, device=y.device) if dropout else None
        out: Tensor
        out, *kept = built.residual.forward(y, hidden, weight, bias, seed, eps, dropout)
        ctx.save_for_backward(weight, seed, *kept)
        ctx.dropout = dropout
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        weight, seed, added, mean, scale = ctx.saved_tensors
        built = kernels.built()
        assert built is not None
        dy, dhidden, sums = built.residual.backward(grad.contiguous(), added, weight, seed, mean, scale, ctx.dropout)
        return dy, dhidden, *sums.to(weight.dtype).unbind(), None, None
