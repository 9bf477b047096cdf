"""The Q-Former's attention over few tokens as one Triton kernel each way. Imported only for tensors on a GPU.

A program computes one head of one row: its queries stay in registers while it walks over the keys. It reads the packed
projections and writes their packed gradients, so that nothing is transposed, stacked or copied in between.
n rows, s queries, p keys, h heads, d width of a head.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from vglm_train.model.qformer.random_triton import kept

KEYS = 32  # that a program looks at together
WARPS = {16: 4, 32: 4, 64: 4, 128: 8}  # of programs with so many rows of queries


@triton.jit
def _scores(q, k, bias, query, key, queries, keys, bias_row, scale, has_bias: tl.constexpr):
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    inside = (query < queries)[:, None] & (key < keys)[None, :]
    if has_bias:
        scores += tl.load(bias + query[:, None] * bias_row + key[None, :], mask=inside, other=0.0).to(tl.float32)
    return tl.where((key < keys)[None, :], scores, float("-inf"))


@triton.jit
def _forward(
    q, k, v, bias, seed, out, lse, queries, keys, heads, q_row, k_row, bias_row, scale, dropout,
    has_bias: tl.constexpr, drops: tl.constexpr, d: tl.constexpr, block: tl.constexpr, step: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    row, head = program // heads, program % heads
    query, channel = tl.arange(0, block), tl.arange(0, d)
    read = (query < queries)[:, None]
    q_tile = tl.load(
        q + row * queries * q_row + head * d + query[:, None] * q_row + channel[None, :], mask=read, other=0.0
    )
    k += row * keys * k_row + head * d
    v += row * keys * k_row + head * d
    bias += row * queries * bias_row
    most = tl.full([block], float("-inf"), tl.float32)
    total = tl.zeros([block], tl.float32)
    result = tl.zeros([block, d], tl.float32)
    drawn = tl.load(seed)
    for start in range(0, keys, step):
        key = start + tl.arange(0, step)
        where = key[:, None] * k_row + channel[None, :]
        k_tile = tl.load(k + where, mask=(key < keys)[:, None], other=0.0)
        v_tile = tl.load(v + where, mask=(key < keys)[:, None], other=0.0)
        scores = _scores(q_tile, k_tile, bias, query, key, queries, keys, bias_row, scale, has_bias)
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
    tl.store(lse + program * queries + query, most + tl.log(total), mask=query < queries)
    width = heads * d
    place = (row * queries + query[:, None]) * width + head * d + channel[None, :]
    tl.store(out + place, (result / total[:, None]).to(out.dtype.element_ty), mask=read)


@triton.jit
def _backward(
    q, k, v, bias, seed, out, lse, grad, dq, dk, dv, queries, keys, heads, q_row, k_row, bias_row, scale, dropout,
    has_bias: tl.constexpr, drops: tl.constexpr, d: tl.constexpr, block: tl.constexpr, step: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    row, head = program // heads, program % heads
    query, channel = tl.arange(0, block), tl.arange(0, d)
    read = (query < queries)[:, None]
    own = row * queries * q_row + head * d + query[:, None] * q_row + channel[None, :]
    q_tile = tl.load(q + own, mask=read, other=0.0)
    place = (row * queries + query[:, None]) * heads * d + head * d + channel[None, :]
    grad_tile = tl.load(grad + place, mask=read, other=0.0)
    delta = tl.sum(tl.load(out + place, mask=read, other=0.0).to(tl.float32) * grad_tile.to(tl.float32), 1)
    logs = tl.load(lse + program * queries + query, mask=query < queries, other=float("inf"))  # inf: probability 0
    first = row * keys * k_row + head * d
    bias += row * queries * bias_row
    dq_tile = tl.zeros([block, d], tl.float32)
    drawn = tl.load(seed)
    for start in range(0, keys, step):
        key = start + tl.arange(0, step)
        inside = (key < keys)[:, None]
        where = first + key[:, None] * k_row + channel[None, :]
        k_tile = tl.load(k + where, mask=inside, other=0.0)
        v_tile = tl.load(v + where, mask=inside, other=0.0)
        scores = _scores(q_tile, k_tile, bias, query, key, queries, keys, bias_row, scale, has_bias)
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
        tl.store(dv + where, dv_tile.to(dv.dtype.element_ty), mask=inside)
        tl.store(dk + where, dk_tile.to(dk.dtype.element_ty), mask=inside)
    tl.store(dq + own, dq_tile.to(dq.dtype.element_ty), mask=read)


def forward(
    x: Tensor, image: Tensor | None, heads: int, bias: Tensor | None, seed: Tensor, dropout: float
) -> tuple[Tensor, Tensor]:
    """See `attention.attend`: its result [n,s,h*d], and the logarithms of the softmax's sums [n,h,s] fp32."""
    q, k, v = _parts(x, image)
    n, s, width = q.shape
    out = torch.empty(n, s, width, dtype=x.dtype, device=x.device)
    lse = torch.empty(n, heads, s, dtype=torch.float32, device=x.device)
    _launch(_forward, (q, k, v), bias, seed, (out, lse), heads, dropout)
    return out, lse


def backward(
    grad: Tensor,
    x: Tensor,
    image: Tensor | None,
    heads: int,
    bias: Tensor | None,
    seed: Tensor,
    dropout: float,
    out: Tensor,
    lse: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of x and image; the second is empty without image."""
    dx = torch.empty_like(x)
    dimage = x.new_empty(0) if image is None else torch.empty_like(image)
    parts = (out, lse, grad.contiguous(), *_parts(dx, None if image is None else dimage))
    _launch(_backward, _parts(x, image), bias, seed, parts, heads, dropout)
    return dx, dimage


def _parts(x: Tensor, image: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, views of the packed projections."""
    if image is None:
        q, k, v = x.chunk(3, 2)
        return q, k, v
    return x, *image.chunk(2, 2)  # type: ignore[return-value]


def _launch(
    kernel: triton.JITFunction,
    inputs: tuple[Tensor, Tensor, Tensor],
    bias: Tensor | None,
    seed: Tensor,
    others: tuple[Tensor, ...],
    heads: int,
    dropout: float,
) -> None:
    q, k, _ = inputs
    n, s, width = q.shape
    p, d = k.shape[1], width // heads
    block = max(16, triton.next_power_of_2(s))
    with torch.cuda.device_of(q):
        kernel[(n * heads,)](
            *inputs, q if bias is None else bias, seed, *others, s, p, heads, q.stride(1), k.stride(1),
            0 if bias is None else bias.shape[-1], d**-0.5, dropout,
            has_bias=bias is not None, drops=dropout > 0, d=d, block=block, step=KEYS, num_warps=WARPS[block],
        )  # fmt: skip
