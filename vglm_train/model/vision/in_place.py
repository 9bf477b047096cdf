"""EVA's blocks on a GPU, in 16 bits and without gradient, with the residual sums inside of the products.

A product adds to the residual stream where that lies, so that the sum costs no pass over memory of its own and is
rounded once. The products' biases are the same for all tokens. They stay apart, summed up in one fp32 vector that each
norm adds to what it reads. `python -m benchmarks.vision` measures it.

n images, p tokens, c channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vglm_train.model.vision import fused
from vglm_train.model.vision.attention import attend


def applies(blocks: Sequence[Any], x: Tensor) -> bool:
    """Whether `run` computes these blocks faster than one after the other."""
    plain = all(type(block.attention.qkv) is nn.Linear and type(block.mlp.up) is nn.Linear for block in blocks)
    if any(
        block._forward_pre_hooks for block in blocks
    ):  # they would not be called: they bring a divided block's weights
        return False
    return plain and x.is_contiguous() and fused.fuses(x) and fused.kernels() is not None


def run(blocks: Sequence[Any], x: Tensor) -> Tensor:
    """x [n,p,c], which is overwritten -> what the last of EVA's blocks gives [n,p,c]."""
    n, p, c = x.shape
    stream, bias = x.view(-1, c), torch.zeros(c, dtype=torch.float32, device=x.device)
    for block in blocks:
        attention, mlp = block.attention, block.mlp
        qkv = attention.qkv(_norm(stream, bias, block.norm1)).view(n, p, -1)
        bias = _add_product(stream, attend(qkv, attention.heads).view(-1, c), attention.output, bias)
        bias = _add_product(stream, fused.gelu_linear(mlp.up, _norm(stream, bias, block.norm2)), mlp.down, bias)
    return (stream + bias).to(x.dtype).view(n, p, c)


def _add_product(stream: Tensor, x: Tensor, linear: nn.Linear, bias: Tensor) -> Tensor:
    """Add linear(x) to the stream but for its bias, which is added to the others' [c]."""
    stream.addmm_(x, linear.weight.t())
    return bias + linear.bias


def _norm(stream: Tensor, bias: Tensor, norm: nn.LayerNorm) -> Tensor:
    found = fused.kernels() if stream.is_cuda else None
    normed: Tensor
    if found is None:
        normed = norm((stream + bias).to(stream.dtype))
    else:
        normed = found.norm_with_bias(stream, bias, norm.weight, norm.bias, norm.eps)
    return normed
