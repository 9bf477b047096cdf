"""Attention of a frozen language model over short rows, in training: one kernel each way on a GPU.

torch's kernels are made for longer rows. Their backward makes three passes, and its gradients have to be copied.

b rows, s queries, t keys, h heads, d width of a head.
"""

from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from vglm_train.autograd import apply
from vglm_train.model.launch import builds

HALF = (torch.float16, torch.bfloat16)


class Scores(NamedTuple):
    """What is done with the products of queries and keys before the softmax; nothing of it has a gradient."""

    scale: float
    bias: Tensor | None = None  # [b or 1,h or 1,s,t], added; no row of it is -inf throughout
    mask: Tensor | None = None  # [b or 1,h or 1,s or 1,t] bool: whether a key is seen
    causal: bool = False  # query i sees the keys up to the i-th


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, causal: bool = False) -> Tensor:
    """Scaled dot products of q [b,s,h,d] with k and v [b,t,h,d] -> [b,s,h*d]. bias [b,1,s,t]: added to the scores."""
    scores = Scores(q.shape[3] ** -0.5, bias, None, causal)
    if fits(q, k, v, scores):
        return attend_short(q, k, v, scores).flatten(2)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    result = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=causal)
    return result.transpose(1, 2).flatten(2)


def attend_short(q: Tensor, k: Tensor, v: Tensor, scores: Scores) -> Tensor:
    """As `attend`, by the kernels, of what fits -> [b,s,h,d]."""
    mixed: Tensor = apply(_Attend, q, k, v, scores)
    return mixed


def fits(q: Tensor, k: Tensor, v: Tensor, scores: Scores) -> bool:
    """Whether the kernels compute it. Answering, which wants no gradient, goes on with torch's."""
    if torch.compiler.is_compiling() or not q.is_cuda or not (torch.is_grad_enabled() and q.requires_grad):
        return False
    alike = q.dtype in HALF and q.dtype == k.dtype == v.dtype and k.shape == v.shape and q.numel() > 0
    rows = (q.shape[0], *q.shape[2:]) == (k.shape[0], *k.shape[2:])
    inner = k.stride() == v.stride() and q.stride(3) == k.stride(3) == 1
    fixed = all(_is_fixed(x, k.shape[1]) for x in (scores.bias, scores.mask))
    return alike and rows and inner and fixed and (found := kernels()) is not None and _holds(found, q, scores)


def _is_fixed(x: Tensor | None, keys: int) -> bool:
    """Whether a bias or a mask can be read as it is, and wants no gradient."""
    return x is None or (x.ndim == 4 and x.shape[3] == keys and x.stride(3) == 1 and not x.requires_grad)


def _holds(kernel: ModuleType, q: Tensor, scores: Scores) -> bool:
    """Whether a multiprocessor of this card can hold the queries of a row's head, and what their gradients need."""
    if q.shape[1] > kernel.MOST_QUERIES or q.shape[3] > kernel.WIDEST:
        return False
    kinds = scores.bias is not None, scores.mask is not None, scores.causal
    found: bool = kernel.fits_card(q.device.index, q.dtype, _power(q.shape[1]), q.shape[3], *kinds)
    return found


def _power(number: int) -> int:
    """The power of two from it on: what decides how much memory is needed."""
    return 1 << (number - 1).bit_length()


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scores: Scores) -> Tensor:
        kernel, ctx.scores = built(), scores._replace(bias=None, mask=None)
        out: Tensor
        out, lse = kernel.forward(kernel.Heads(q, k, v), kernel.How(**scores._asdict()))
        ctx.save_for_backward(q, k, v, out, lse, scores.bias, scores.mask)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        kernel = built()
        q, k, v, out, lse, bias, mask = ctx.saved_tensors
        grads = kernel.Heads(*(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v)))
        how = kernel.How(ctx.scores.scale, bias, mask, ctx.scores.causal)
        kernel.backward(grad, kernel.Heads(q, k, v), how, out, lse, grads)
        return *grads, None


def built() -> ModuleType:
    """The kernels, of what fits."""
    found = kernels()
    assert found is not None
    return found


@builds("attention of language models trains slower")
def kernels() -> ModuleType:
    from vglm_train.model import attention_triton

    x = torch.zeros(1, 1, 1, 16, device="cuda", dtype=torch.bfloat16)
    attention_triton.forward(attention_triton.Heads(x, x, x), attention_triton.How(1.0))
    return attention_triton
