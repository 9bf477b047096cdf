"""Attention without mask or gradient over packed projections, in Triton. Imported only for tensors on a GPU.

Tiles have powers of two, and a picture seldom: 257 tokens, 88 channels. So heads of up to 96 channels are cut into 64
and 32, with zeros behind the last channel, 9 % more products instead of 45. The first token, which encoders put before
a grid of patches, is a key apart: the softmax begins with it, and the other 256 are a whole tile. Sums are in fp32.
Probabilities are rounded to 16 bits before they are multiplied, as flash attention does.

n pictures, p tokens, h heads of d channels, c = h * d.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

# `_whole`: a program keeps all keys and values of a head, which are read once, for all queries. With these numbers two
# programs share a multiprocessor: one reads while the other multiplies
WHOLE_ROWS, WHOLE_WARPS = 64, 4  # queries that are looked at together
MOST_KEYS, WIDEST = 256, 96  # beside the first key; channels
# `_tiled`: a program has some queries and walks over tiles of keys
ROWS, KEYS, WARPS, STAGES = 128, 64, 4, 2
LEAST = tl.constexpr(16)  # what tensor cores take


@triton.jit
def _read(x, row, rows, row_stride, start: tl.constexpr, d: tl.constexpr, width: tl.constexpr):
    """Channels from `start` of the tokens `row`; zeros behind the last of `rows` tokens and of d channels."""
    channel = start + tl.arange(0, width)
    inside = (row < rows)[:, None] & (channel < d)[None, :]
    return tl.load(x + row[:, None] * row_stride + channel[None, :], mask=inside, other=0.0)


@triton.jit
def _ask(x, d: tl.constexpr, width: tl.constexpr):
    """Start to fetch d channels, without waiting for them."""
    channel = tl.arange(0, triton.next_power_of_2(width))
    tl.load(x + channel, mask=channel < d, other=0.0, volatile=True)


@triton.jit
def _write(out, value, row, rows, row_stride, start: tl.constexpr, d: tl.constexpr, width: tl.constexpr):
    channel = start + tl.arange(0, width)
    inside = (row < rows)[:, None] & (channel < d)[None, :]
    tl.store(out + row[:, None] * row_stride + channel[None, :], value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _first_value(v, start: tl.constexpr, d: tl.constexpr, width: tl.constexpr):
    channel = start + tl.arange(0, width)
    return tl.load(v + channel, mask=channel < d, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _scores(q_low, q_high, k_low, k_high, high: tl.constexpr):
    scores = tl.dot(q_low, tl.trans(k_low))
    if high:
        scores = tl.dot(q_high, tl.trans(k_high), scores)
    return scores


@triton.jit
def _probabilities(scores, first, others, scale, exact: tl.constexpr):
    """Of all keys but the first, and its own, both before their sum divides them, and what divides them, inverse."""
    if not exact:
        scores = tl.where((tl.arange(0, scores.shape[1]) < others)[None, :], scores, float("-inf"))
    most = tl.maximum(first, tl.max(scores, 1)) * scale
    probability = tl.exp2(scores * scale - most[:, None])
    first = tl.exp2(first * scale - most)
    return probability, first[:, None], (1 / (first + tl.sum(probability, 1)))[:, None]


@triton.jit
def _look(
    q_low, q_high, k_low, k_high, v_low, v_high, k_first_low, k_first_high, v_first_low, v_first_high,
    out, row, tokens, row_stride, scale,
    d: tl.constexpr, low: tl.constexpr, high: tl.constexpr, exact: tl.constexpr,
):  # fmt: skip
    """Some queries of a head look at all of its keys."""
    scores = _scores(q_low, q_high, k_low, k_high, high)
    first = tl.sum(_scores(q_low, q_high, k_first_low, k_first_high, high), 1)
    probability, first, share = _probabilities(scores, first, tokens - 1, scale, exact)
    probability = probability.to(v_low.dtype)
    result = tl.dot(probability, v_low, first * v_first_low)
    _write(out, result * share, row, tokens, row_stride, 0, d, low)
    if high:
        result = tl.dot(probability, v_high, first * v_first_high)
        _write(out, result * share, row, tokens, row_stride, low, d, high)


@triton.jit
def _whole(
    qkv, low_tiles, high_tiles, out, tokens, heads, scale,
    d: tl.constexpr, low: tl.constexpr, high: tl.constexpr, rows: tl.constexpr, keys: tl.constexpr, exact: tl.constexpr,
):  # fmt: skip
    """One head of one picture. `exact`: all but the first of its tokens are just `keys`."""
    picture, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    width = heads * d
    q = qkv + picture.to(tl.int64) * tokens * 3 * width + head * d
    out += picture.to(tl.int64) * tokens * width + head * d
    row = tl.arange(0, rows)
    _ask(q + width, d, low + high)  # of what is read below, each waits for the one before
    q_low = _read(q, row, tokens, 3 * width, 0, d, low)
    q_high = _read(q, row, tokens, 3 * width, low, d, high) if high else q_low
    v_first_low = _first_value(q + 2 * width, 0, d, low)
    v_first_high = _first_value(q + 2 * width, low, d, high) if high else v_first_low
    # one key in a tile of zeros: a sum over the tile is its score
    k_first_low = _read(q + width, tl.arange(0, LEAST), 1, 3 * width, 0, d, low)
    k_first_high = _read(q + width, tl.arange(0, LEAST), 1, 3 * width, low, d, high) if high else k_first_low
    k_low = low_tiles.load([picture, heads + head, 1, 0]).reshape(keys, low)
    k_high = high_tiles.load([picture, heads + head, 1, low]).reshape(keys, high) if high else k_low
    v_low = low_tiles.load([picture, 2 * heads + head, 1, 0]).reshape(keys, low)
    v_high = high_tiles.load([picture, 2 * heads + head, 1, low]).reshape(keys, high) if high else v_low
    for start in tl.range(0, tokens, rows, num_stages=1):
        # the next queries arrive while these are looked at
        next_low = _read(q, start + rows + row, tokens, 3 * width, 0, d, low)
        next_high = _read(q, start + rows + row, tokens, 3 * width, low, d, high) if high else next_low
        _look(
            q_low, q_high, k_low, k_high, v_low, v_high, k_first_low, k_first_high, v_first_low, v_first_high,
            out, start + row, tokens, width, scale, d, low, high, exact,
        )  # fmt: skip
        q_low, q_high = next_low, next_high


@triton.jit
def _tiled(
    qkv, low_tiles, high_tiles, out, tokens, heads, scale,
    d: tl.constexpr, low: tl.constexpr, high: tl.constexpr, rows: tl.constexpr, keys: tl.constexpr,
    exact: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    """Some queries of one head. `exact`: all but the first of its tokens are whole tiles of `keys`."""
    blocks = tl.cdiv(tokens, rows)
    block, program = tl.program_id(0) % blocks, tl.program_id(0) // blocks  # a head's programs run side by side
    picture, head = program // heads, program % heads
    width = heads * d
    q = qkv + picture.to(tl.int64) * tokens * 3 * width + head * d
    out += picture.to(tl.int64) * tokens * width + head * d
    row = block * rows + tl.arange(0, rows)
    q_low = _read(q, row, tokens, 3 * width, 0, d, low)
    q_high = _read(q, row, tokens, 3 * width, low, d, high) if high else q_low
    k_first_low = _read(q + width, tl.arange(0, LEAST), 1, 3 * width, 0, d, low)
    k_first_high = _read(q + width, tl.arange(0, LEAST), 1, 3 * width, low, d, high) if high else k_first_low
    most = tl.sum(_scores(q_low, q_high, k_first_low, k_first_high, high), 1) * scale
    total = tl.full([rows], 1.0, tl.float32)
    result = tl.zeros([rows, low], tl.float32) + _first_value(q + 2 * width, 0, d, low)
    if high:
        result_high = tl.zeros([rows, high], tl.float32) + _first_value(q + 2 * width, low, d, high)
    for start in tl.range(1, tokens, keys, num_stages=stages):
        k_low = low_tiles.load([picture, heads + head, start, 0]).reshape(keys, low)
        k_high = high_tiles.load([picture, heads + head, start, low]).reshape(keys, high) if high else k_low
        scores = _scores(q_low, q_high, k_low, k_high, high)
        if not exact:
            scores = tl.where((start + tl.arange(0, keys) < tokens)[None, :], scores, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1) * scale)
        probability = tl.exp2(scores * scale - higher[:, None])
        factor = tl.exp2(most - higher)
        total = total * factor + tl.sum(probability, 1)
        probability = probability.to(q_low.dtype)
        v_low = low_tiles.load([picture, 2 * heads + head, start, 0]).reshape(keys, low)
        result = tl.dot(probability, v_low, result * factor[:, None])
        if high:
            v_high = high_tiles.load([picture, 2 * heads + head, start, low]).reshape(keys, high)
            result_high = tl.dot(probability, v_high, result_high * factor[:, None])
        most = higher
    share = (1 / total)[:, None]
    _write(out, result * share, row, tokens, width, 0, d, low)
    if high:
        _write(out, result_high * share, row, tokens, width, low, d, high)


def attend(qkv: Tensor, heads: int) -> Tensor:
    """See `attention.attend`: qkv [n,p,3c] contiguous, d a multiple of 8 and at most 128 -> [n,p,c]."""
    assert qkv.is_contiguous()
    _, p, packed = qkv.shape
    whole = p - 1 <= MOST_KEYS and packed // 3 // heads <= WIDEST
    return attend_whole(qkv, heads) if whole else attend_tiled(qkv, heads)


def attend_whole(qkv: Tensor, heads: int, rows: int | None = None, warps: int | None = None) -> Tensor:
    """`attend` where all keys of a head lie in one tile."""
    p = qkv.shape[1]
    keys = max(LEAST.value, triton.next_power_of_2(p - 1))
    rows = rows or WHOLE_ROWS
    options = {"rows": rows, "exact": p - 1 == keys, "num_warps": warps or WHOLE_WARPS}
    return _launch(_whole, qkv, heads, keys, 1, options)


def attend_tiled(
    qkv: Tensor,
    heads: int,
    rows: int | None = None,
    keys: int | None = None,
    warps: int | None = None,
    stages: int | None = None,
) -> Tensor:
    """`attend` of any number of keys."""
    p = qkv.shape[1]
    rows, keys = rows or ROWS, keys or KEYS
    options = {"rows": rows, "exact": (p - 1) % keys == 0, "stages": stages or STAGES, "num_warps": warps or WARPS}
    return _launch(_tiled, qkv, heads, keys, triton.cdiv(p, rows), options)


def _launch(
    kernel: triton.JITFunction, qkv: Tensor, heads: int, keys: int, programs: int, options: dict[str, Any]
) -> Tensor:
    """`programs`: of a head."""
    n, p, packed = qkv.shape
    c = packed // 3
    d = c // heads
    out = torch.empty(n, p, c, dtype=qkv.dtype, device=qkv.device)
    if not out.numel():
        return out
    low, high = widths(d)
    tiles = [_tiles(qkv, heads, keys, width) for width in (low, high or low)]
    with torch.cuda.device_of(qkv):
        kernel[(n * heads * programs,)](
            qkv, *tiles, out, p, heads, math.log2(math.e) * d**-0.5, d=d, low=low, high=high, keys=keys, **options
        )
    return out


def _tiles(qkv: Tensor, heads: int, keys: int, width: int) -> TensorDescriptor:
    """Tiles of `keys` tokens and `width` channels of one of 3h heads; zeros where a picture or a head ends."""
    n, p, packed = qkv.shape
    d = packed // 3 // heads
    return TensorDescriptor(qkv, [n, 3 * heads, p, d], [p * packed, d, packed, 1], [1, 1, keys, width])


def widths(d: int) -> tuple[int, int]:
    """Powers of two that hold d channels together; the second is 0 where one does as well."""
    return (64, 32) if 64 < d <= 96 else (max(LEAST.value, triton.next_power_of_2(d)), 0)
