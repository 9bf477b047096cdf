"""Attention over packed projections: one kernel each way on a GPU, torch's own elsewhere.

n rows, s queries, p keys, w = h heads of d channels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vglm_train.model.qformer import kernels

WIDTHS = (16, 32, 64, 128)  # of a head
MOST_QUERIES = 128


def attend(x: Tensor, image: Tensor | None, heads: int, bias: Tensor | None, dropout: float) -> Tensor:
    """Scaled dot products of each row with dropout on the probabilities -> [n,s,w].

    x [n,s,3w]: queries, keys and values of the same tokens. With image [n,p,2w], keys and values, x is [n,s,w].
    bias [n,1,s,p]: added to the scores, without gradient; no row of it is -inf throughout.
    """
    if fuses(x, image, heads):
        if dropout:
            seed = torch.randint(2**62, (1,), dtype=torch.int64, device=x.device)
        else:
            seed = torch.zeros(1, dtype=torch.int64, device=x.device)
        attended: Tensor = torch.ops.vglm.attend(x, image, bias, seed, heads, dropout)[0]
        return attended
    parts = split_heads(x, 3, heads) if image is None else (*split_heads(x, 1, heads), *split_heads(image, 2, heads))
    q, k, v = parts
    return scaled_dot_products(q, k, v, bias, dropout)


def scaled_dot_products(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    """The plain computation, of heads [n,h,s,d] and [n,h,p,d] -> [n,s,w]."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout).transpose(1, 2).flatten(2)


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """[n,s,parts*w] -> `parts` of [n,h,s,d], without a copy."""
    n, s, width = x.shape
    each = x.view(n, s, parts, heads, width // parts // heads).unbind(2)
    # transposed only now: backward then stacks gradients in memory order, several times faster
    return tuple(part.transpose(1, 2) for part in each)


def fuses(x: Tensor, image: Tensor | None, heads: int) -> bool:
    """Whether the kernels compute x."""
    if not x.is_cuda or x.dtype not in kernels.HALF or x.shape[1] > MOST_QUERIES:
        return False
    width = x.shape[2] // (3 if image is None else 1)
    contiguous = x.is_contiguous() and (image is None or image.is_contiguous())
    return contiguous and width // heads in WIDTHS and kernels.available()


@torch.library.custom_op("vglm::attend", mutates_args=(), device_types="cuda")
def _attend(
    x: Tensor, image: Tensor | None, bias: Tensor | None, seed: Tensor, heads: int, dropout: float
) -> tuple[Tensor, Tensor]:
    built = kernels.built()
    assert built is not None
    q, k, v = _heads(x, image, heads)
    how = built.attention.How(q.shape[3] ** -0.5, bias, seed=seed, dropout=dropout)
    out, lse = built.attention.forward(built.attention.Heads(q, k, v), how)
    return out.flatten(2), lse


@torch.library.custom_op("vglm::attend_backward", mutates_args=(), device_types="cuda")
def _attend_backward(
    grad: Tensor,
    x: Tensor,
    image: Tensor | None,
    bias: Tensor | None,
    seed: Tensor,
    heads: int,
    dropout: float,
    out: Tensor,
    lse: Tensor,
) -> tuple[Tensor, Tensor]:
    built = kernels.built()
    assert built is not None
    kernel = built.attention
    dx, dimage = torch.empty_like(x), x.new_empty(0) if image is None else torch.empty_like(image)
    q, k, v = _heads(x, image, heads)
    grads = _heads(dx, None if image is None else dimage, heads)
    how = kernel.How(q.shape[3] ** -0.5, bias, seed=seed, dropout=dropout)
    kernel.backward(grad, kernel.Heads(q, k, v), how, out, lse, kernel.Heads(*grads))
    return dx, dimage


def _heads(x: Tensor, image: Tensor | None, heads: int) -> tuple[Tensor, ...]:
    """Queries, keys and values of packed projections, [n,s,h,d] and [n,p,h,d], without a copy."""
    parts: tuple[Tensor, ...]
    if image is None:
        parts = x.unflatten(2, (3, heads, -1)).unbind(2)
    else:
        parts = (x.unflatten(2, (heads, -1)), *image.unflatten(2, (2, heads, -1)).unbind(2))
    return parts


@_attend.register_fake
def _(x: Tensor, image: Tensor | None, bias: Any, seed: Any, heads: int, dropout: float) -> tuple[Tensor, Tensor]:
    n, s, width = x.shape
    out = x.new_empty(n, s, width // 3 if image is None else width)
    return out, x.new_empty(n, heads, s, dtype=torch.float32)


@_attend_backward.register_fake
def _(grad: Any, x: Tensor, image: Tensor | None, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(0) if image is None else torch.empty_like(image)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, image, bias, seed, ctx.heads, ctx.dropout = inputs
    ctx.save_for_backward(x, image, bias, seed, *output)
    ctx.set_materialize_grads(False)  # of the sums' logarithms


def _gradients(ctx: Any, grad: Tensor, _: Any) -> Any:
    x, image, bias, seed, out, lse = ctx.saved_tensors
    dx, dimage = torch.ops.vglm.attend_backward(grad, x, image, bias, seed, ctx.heads, ctx.dropout, out, lse)
    return dx, None if image is None else dimage, None, None, None, None


_attend.register_autograd(_gradients, setup_context=_save)
