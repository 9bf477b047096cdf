"""What is frozen and plain in a transformers model, and several such linear layers of the same input as one step.

i inputs, o outputs.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vglm_train.autograd import apply
from vglm_train.model.language.hooks import is_wrapped

HALF = (torch.float16, torch.bfloat16)


def project(x: Tensor, linears: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """Linear layers of x [...,i], on a GPU -> [...,o] each.

    Autograd sums up gradients of x, in a kernel for each; here they are summed up in the products.
    """
    if all(fits_linear(linear, x) for linear in linears):
        weights, biases = [linear.weight for linear in linears], [linear.bias for linear in linears]
        found: tuple[Tensor, ...] = apply(_Projections, x, *weights, *biases)
        return found
    return tuple(linear(x) for linear in linears)


def fits_linear(linear: nn.Module, x: Tensor) -> bool:
    if type(linear) is not nn.Linear or is_wrapped(linear):
        return False
    return are_frozen(x, linear.weight) and (linear.bias is None or are_frozen(x, linear.bias))


def are_frozen(x: Tensor, *weights: Tensor | None) -> bool:
    """Whether none is missing or trains, and all have the dtype of x, of 16 bits."""
    fit = (weight is not None and weight.dtype == x.dtype and not weight.requires_grad for weight in weights)
    return x.dtype in HALF and all(fit)


def rows(x: Tensor) -> Tensor:
    """[...,i] -> [n,i]."""
    return x.reshape(-1, x.shape[-1])


class _Projections(torch.autograd.Function):
    """x [...,i] -> linear layers of it: the weights of all, and then their biases."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parts: Any) -> Any:
        weights, biases = parts[: len(parts) // 2], parts[len(parts) // 2 :]
        ctx.save_for_backward(*weights)
        return tuple(F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        first, *others = zip(grads, ctx.saved_tensors, strict=True)
        dx = rows(first[0]) @ first[1]
        for grad, weight in others:
            dx.addmm_(rows(grad), weight)
        return dx.view(*grads[0].shape[:-1], -1), *[None] * (2 * len(grads))
