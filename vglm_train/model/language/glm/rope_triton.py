"""ChatGLM's 2-D rotation as one Triton kernel each way. Imported where tensors lie on a GPU only."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048  # pairs a program turns: a row of ChatGLM-6B's q


@triton.jit
def _rotate_pairs(x, out, first, inside, cos, sin, quarter: tl.constexpr):
    a = tl.load(x + first, mask=inside).to(tl.float32)
    b = tl.load(x + first + quarter, mask=inside).to(tl.float32)
    tl.store(out + first, a * cos - b * sin, mask=inside)
    tl.store(out + first + quarter, b * cos + a * sin, mask=inside)


@triton.jit
def _rotate_rows(
    q, k, v, q_out, k_out, v_out, cos, sin, stride, out_stride, pairs,
    quarter: tl.constexpr, back: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    pair = tl.program_id(1) * block + tl.arange(0, block)
    inside = pair < pairs
    first = pair // quarter * (2 * quarter) + pair % quarter
    angle = row * (2 * quarter) + pair % (2 * quarter)
    c = tl.load(cos + angle, mask=inside)
    s = tl.load(sin + angle, mask=inside)
    if back:
        s = -s
    x, y = row * stride, row * out_stride
    _rotate_pairs(q + x, q_out + y, first, inside, c, s, quarter)
    _rotate_pairs(k + x, k_out + y, first, inside, c, s, quarter)
    for side in tl.static_range(2):
        place = first + side * quarter
        tl.store(v_out + y + place, tl.load(v + x + place, mask=inside), mask=inside)


def rotate(
    read: tuple[Tensor, ...], written: tuple[Tensor, ...], cos: Tensor, sin: Tensor, *, back: bool = False
) -> None:
    """q and k of `read`, [b,s,h,d] each, turned in fp32 into those of `written`; v is copied. `back`: turned back.

    cos, sin [b,s,1,2,d/4] fp32, contiguous. Rows h*d are contiguous, and equally far apart within `read` and within
    `written`: three tensors, or the parts of a fused one.
    """
    b, s, heads, width = read[0].shape
    assert cos.is_contiguous()
    assert sin.is_contiguous()
    pairs = heads * width // 2
    block = min(BLOCK, triton.next_power_of_2(pairs))
    with torch.cuda.device_of(cos):
        _rotate_rows[(b * s, triton.cdiv(pairs, block))](
            *read, *written, cos, sin, _row(read[0]), _row(written[0]), pairs,
            quarter=width // 4, back=back, block=block, num_warps=8,
        )  # fmt: skip


def _row(x: Tensor) -> int:
    """Elements from one row of [b,s,h,d] to the next."""
    b, s, heads, width = x.shape
    row = x.stride(1) if s > 1 else x.stride(0)  # an axis of one has any stride
    assert x.stride(3) == 1
    assert heads == 1 or x.stride(2) == width
    assert min(b, s) == 1 or x.stride(0) == s * row
    return row
