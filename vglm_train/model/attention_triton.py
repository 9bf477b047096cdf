"""Attention over few tokens as one Triton kernel each way. Imported only for tensors on a GPU.

A program computes one head of one row: its queries stay in registers while it walks over the keys. Queries, keys and
values may be parts of packed projections, and their gradients parts of packed ones, so that nothing is transposed,
stacked or copied in between.
n rows, s queries, p keys, h heads, d width of a head.
"""

from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.errors import OutOfResources

from vglm_train.model.launch import launch
from vglm_train.model.random_triton import kept

MOST_QUERIES, WIDEST = 128, 128  # queries, and channels of a head, that a program can hold
HIDDEN = tl.constexpr(-1e30)  # score of a key that the mask hides: a query that sees none gets the mean of all
# keys that a program looks at together, and its warps, by its rows of queries: found by trial on an H100
NARROW = {16: (32, 4), 32: (32, 4), 64: (32, 4), 128: (32, 8)}  # heads of up to 64 channels
WIDE = {16: (32, 4), 32: (32, 4), 64: (32, 4), 128: (32, 4)}  # wider ones
WIDE_BACKWARD = {16: (32, 4), 32: (32, 4), 64: (16, 2), 128: (32, 8)}


class Heads(NamedTuple):
    """Queries [n,s,h,d], keys and values [n,p,h,d], or their gradients; d is contiguous."""

    q: Tensor
    k: Tensor
    v: Tensor


class How(NamedTuple):
    """What is done with the scores q k' * scale."""

    scale: float
    bias: Tensor | None = None  # [n or 1,h or 1,s,p], added; no row of it is -inf throughout
    mask: Tensor | None = None  # [n or 1,h or 1,s or 1,p] bool: whether a key is seen
    causal: bool = False  # query i sees the keys up to the i-th
    seed: Tensor | None = None  # [1] int64, of dropout on the probabilities
    dropout: float = 0.0


@triton.jit
def _scores(
    q, k, bias, mask, query, key, queries, keys, bias_s, mask_s, scale,
    has_bias: tl.constexpr, has_mask: tl.constexpr, causal: tl.constexpr,
):  # fmt: skip
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    inside = (query < queries)[:, None] & (key < keys)[None, :]
    if has_bias:
        scores += tl.load(bias + query[:, None] * bias_s + key[None, :], mask=inside, other=0.0).to(tl.float32)
    if has_mask:
        shown = tl.load(mask + query[:, None] * mask_s + key[None, :], mask=inside, other=0)
        scores = tl.where(shown != 0, scores, HIDDEN)
    seen = (key < keys)[None, :]
    if causal:
        seen = seen & (key[None, :] <= query[:, None])
    return tl.where(seen, scores, float("-inf"))


@triton.jit
def _forward(
    q, k, v, q_n, q_s, q_h, k_n, k_s, k_h, bias, bias_n, bias_h, bias_s, mask, mask_n, mask_h, mask_s, seed,
    out, lse, queries, keys, heads, scale, dropout,
    has_bias: tl.constexpr, has_mask: tl.constexpr, causal: tl.constexpr, drops: tl.constexpr,
    width: tl.constexpr, d: tl.constexpr, block: tl.constexpr, step: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    row, head = program // heads, program % heads
    query, channel = tl.arange(0, block), tl.arange(0, d)
    real = (channel < width)[None, :]
    read = (query < queries)[:, None] & real
    q_tile = tl.load(q + row * q_n + head * q_h + query[:, None] * q_s + channel[None, :], mask=read, other=0.0)
    k += row * k_n + head * k_h
    v += row * k_n + head * k_h
    bias += row * bias_n + head * bias_h
    mask += row * mask_n + head * mask_h
    most = tl.full([block], float("-inf"), tl.float32)
    total = tl.zeros([block], tl.float32)
    result = tl.zeros([block, d], tl.float32)
    if drops:
        drawn = tl.load(seed)
    for start in range(0, keys, step):
        key = start + tl.arange(0, step)
        where = key[:, None] * k_s + channel[None, :]
        inside = (key < keys)[:, None] & real
        k_tile = tl.load(k + where, mask=inside, other=0.0)
        v_tile = tl.load(v + where, mask=inside, other=0.0)
        scores = _scores(
            q_tile, k_tile, bias, mask, query, key, queries, keys, bias_s, mask_s, scale, has_bias, has_mask, causal
        )
        higher = tl.maximum(most, tl.max(scores, 1))
        finite = tl.where(higher == float("-inf"), 0.0, higher)  # no key so far that may be seen
        p = tl.exp(scores - finite[:, None])
        factor = tl.exp(most - finite)
        total = total * factor + tl.sum(p, 1)
        if drops:
            offset = (program.to(tl.int32) * queries + query)[:, None] * keys + key[None, :]
            p = tl.where(kept(drawn, offset, dropout), p / (1 - dropout), 0.0)
        result = result * factor[:, None] + tl.dot(p.to(v_tile.dtype), v_tile, input_precision="ieee")
        most = higher
    logs = most + tl.log(total)
    if has_mask:
        logs = tl.where(most <= HIDDEN, float("inf"), logs)  # no gradient comes from a query that sees no key
    tl.store(lse + program * queries + query, logs, mask=query < queries)
    place = ((row * queries + query[:, None]) * heads + head) * width + channel[None, :]
    tl.store(out + place, (result / total[:, None]).to(out.dtype.element_ty), mask=read)


@triton.jit
def _backward(
    q, k, v, q_n, q_s, q_h, k_n, k_s, k_h, bias, bias_n, bias_h, bias_s, mask, mask_n, mask_h, mask_s, seed,
    out, lse, grad, dq, dk, dv, dq_n, dq_s, dq_h, dk_n, dk_s, dk_h, queries, keys, heads, scale, dropout,
    has_bias: tl.constexpr, has_mask: tl.constexpr, causal: tl.constexpr, drops: tl.constexpr,
    width: tl.constexpr, d: tl.constexpr, block: tl.constexpr, step: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    row, head = program // heads, program % heads
    query, channel = tl.arange(0, block), tl.arange(0, d)
    real = (channel < width)[None, :]
    read = (query < queries)[:, None] & real
    q_tile = tl.load(q + row * q_n + head * q_h + query[:, None] * q_s + channel[None, :], mask=read, other=0.0)
    place = ((row * queries + query[:, None]) * heads + head) * width + channel[None, :]
    grad_tile = tl.load(grad + place, mask=read, other=0.0)
    delta = tl.sum(tl.load(out + place, mask=read, other=0.0).to(tl.float32) * grad_tile.to(tl.float32), 1)
    logs = tl.load(lse + program * queries + query, mask=query < queries, other=float("inf"))  # inf: probability 0
    k += row * k_n + head * k_h
    v += row * k_n + head * k_h
    dk += row * dk_n + head * dk_h
    dv += row * dk_n + head * dk_h
    bias += row * bias_n + head * bias_h
    mask += row * mask_n + head * mask_h
    dq_tile = tl.zeros([block, d], tl.float32)
    if drops:
        drawn = tl.load(seed)
    for start in range(0, keys, step):
        key = start + tl.arange(0, step)
        inside = (key < keys)[:, None] & real
        where = key[:, None] * k_s + channel[None, :]
        k_tile = tl.load(k + where, mask=inside, other=0.0)
        v_tile = tl.load(v + where, mask=inside, other=0.0)
        scores = _scores(
            q_tile, k_tile, bias, mask, query, key, queries, keys, bias_s, mask_s, scale, has_bias, has_mask, causal
        )
        p = tl.exp(scores - logs[:, None])
        dp = tl.dot(grad_tile, tl.trans(v_tile), input_precision="ieee")
        dropped = p
        if drops:
            offset = (program.to(tl.int32) * queries + query)[:, None] * keys + key[None, :]
            stays = kept(drawn, offset, dropout)
            dropped = tl.where(stays, p / (1 - dropout), 0.0)
            dp = tl.where(stays, dp / (1 - dropout), 0.0)
        ds = (p * (dp - delta[:, None]) * scale).to(k_tile.dtype)
        dv_tile = tl.dot(tl.trans(dropped.to(v_tile.dtype)), grad_tile, input_precision="ieee")
        dk_tile = tl.dot(tl.trans(ds), q_tile, input_precision="ieee")
        dq_tile += tl.dot(ds, k_tile, input_precision="ieee")
        to = key[:, None] * dk_s + channel[None, :]
        tl.store(dv + to, dv_tile.to(dv.dtype.element_ty), mask=inside)
        tl.store(dk + to, dk_tile.to(dk.dtype.element_ty), mask=inside)
    tl.store(dq + row * dq_n + head * dq_h + query[:, None] * dq_s + channel[None, :], dq_tile.to(dq.dtype.element_ty),
             mask=read)  # fmt: skip


def forward(inputs: Heads, how: How) -> tuple[Tensor, Tensor]:
    """The result [n,s,h,d], contiguous, and the logarithms of the softmax's sums [n,h,s] fp32."""
    q = inputs.q
    n, s, heads, _ = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(n, heads, s, dtype=torch.float32, device=q.device)
    _launch(_forward, inputs, how, (out, lse))
    return out, lse


def backward(grad: Tensor, inputs: Heads, how: How, out: Tensor, lse: Tensor, grads: Heads) -> None:
    """Fill `grads` from that of the result. Keys and values of `inputs`, and of `grads`, have the same strides."""
    _launch(_backward, inputs, how, (out, lse, grad.contiguous(), *grads, *_strides(grads)))


@cache
def fits_card(device: int, dtype: torch.dtype, queries: int, width: int, bias: bool, mask: bool, causal: bool) -> bool:
    """Whether a card has the memory on its multiprocessors for such a pass and its backward; tried once."""
    x = torch.zeros(1, queries, 1, width, dtype=dtype, device=torch.device("cuda", device))
    scores = torch.zeros(1, 1, queries, queries, dtype=dtype, device=x.device)
    how = How(1.0, scores if bias else None, scores == 0 if mask else None, causal)
    try:
        out, lse = forward(Heads(x, x, x), how)
        backward(out, Heads(x, x, x), how, out, lse, Heads(x.clone(), x.clone(), x.clone()))
    except OutOfResources:
        return False
    return True


def _strides(heads: Heads) -> tuple[int, ...]:
    return heads.q.stride()[:3] + heads.k.stride()[:3]


def _launch(kernel: triton.JITFunction, inputs: Heads, how: How, others: tuple[object, ...]) -> None:
    q, k, _ = inputs
    n, s, heads, width = q.shape
    block, d = max(16, triton.next_power_of_2(s)), max(16, triton.next_power_of_2(width))
    wide = WIDE_BACKWARD if kernel is _backward else WIDE
    step, warps = (NARROW if d <= 64 else wide)[block]
    launch(
        kernel, (n * heads,), *inputs, *_strides(inputs), *_added(how.bias, q), *_added(how.mask, q),
        q if how.seed is None else how.seed, *others, s, k.shape[1], heads, how.scale, how.dropout,
        has_bias=how.bias is not None, has_mask=how.mask is not None, causal=how.causal, drops=how.dropout > 0,
        width=width, d=d, block=block, step=step, num_warps=warps,
    )  # fmt: skip


def _added(x: Tensor | None, other: Tensor) -> tuple[Tensor | int, ...]:
    """A tensor of scores and its strides, 0 where it is the same for all; `other` and zeros without one."""
    if x is None:
        return other, 0, 0, 0
    x = x.view(torch.uint8) if x.dtype == torch.bool else x
    return x, *(stride if size > 1 else 0 for size, stride in zip(x.shape[:3], x.stride()))
