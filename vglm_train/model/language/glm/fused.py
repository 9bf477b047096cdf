"""What ChatGLM computes between its matrix products, each as one function that can be compiled into one kernel.

n rows, h heads, t columns, d width of a head, e embedding width.
"""

import logging
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vglm_train.log import console

log = logging.getLogger(console.LOGGER)


class FusedParts:
    """What a step does between its matrix products, each as one function."""

    def __init__(self, compiled: bool, dynamic: bool | None) -> None:
        wrap: Callable[..., Any] = torch.compile if compiled else lambda function, **_: function
        self.rotate_and_keep = wrap(rotate_and_keep, dynamic=dynamic)
        self._norm, self.gelu = wrap(add_and_norm, dynamic=dynamic), wrap(gelu, dynamic=dynamic)

    def add_and_norm(self, x: Tensor, added: Tensor, alpha: float, norm: nn.LayerNorm) -> Tensor:
        """[n,e] twice -> LayerNorm of alpha x + added."""
        return self._norm(x, added, alpha, norm.weight, norm.bias, norm.eps)


@cache
def fused_parts(cuda: bool) -> FusedParts:
    """For answering. Compiled on a GPU with triton."""
    compiled = cuda and find_spec("triton") is not None
    if cuda and not compiled:
        log.warning("ChatGLM answers a quarter slower without triton")
    return FusedParts(compiled, dynamic=True)


@cache
def trained_parts(cuda: bool) -> FusedParts:
    """For training, with gradients of their inputs. Compiled on a GPU with triton and a C compiler."""
    if not cuda or find_spec("triton") is None:
        return FusedParts(compiled=False, dynamic=None)
    parts, row = FusedParts(compiled=True, dynamic=None), torch.zeros(2, 64, device="cuda", requires_grad=True)
    try:
        with torch.enable_grad():
            parts.add_and_norm(row, row, 1.0, nn.LayerNorm(64).cuda().requires_grad_(False)).sum().backward()
    except Exception as error:  # torch's compiler raises errors of many kinds
        log.warning("ChatGLM trains a few per cent slower: torch.compile fails here (%s)", error)
        return FusedParts(compiled=False, dynamic=None)
    return parts


def rotate_and_keep(qkv: Tensor, cos: Tensor, sin: Tensor, column: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Rotate queries and keys of qkv [n,3,h,d] by [n,1,2,d/4]; write keys and values to `column` [1] of [n,h,t,d].

    -> queries [n,h,1,d]
    """
    first, second = qkv[:, :2].unflatten(-1, (2, 2, -1)).unbind(-2)  # [n,2,h,2,d/4] each
    cos, sin = cos[:, None], sin[:, None]
    rotated = torch.stack((first * cos - second * sin, second * cos + first * sin), -2).flatten(-3).to(qkv.dtype)
    keys.index_copy_(2, column, rotated[:, 1, :, None])
    values.index_copy_(2, column, qkv[:, 2, :, None])
    return rotated[:, 0, :, None]


def add_and_norm(x: Tensor, added: Tensor, alpha: float, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """See `FusedParts.add_and_norm`."""
    return F.layer_norm(x * alpha + added, x.shape[-1:], weight, bias, eps)


def gelu(x: Tensor) -> Tensor:
    """SAT's activation of ChatGLM."""
    return F.gelu(x, approximate="tanh")
