"""ChatGLM's 2-D RoPE as one Triton kernel each way. Imported only for tensors on a GPU."""

import triton
import triton.language as tl
from torch import Tensor

from vglm_train.model.launch import launch

BLOCK = 2048  # pairs that a program rotates: a row of ChatGLM-6B's q


@triton.jit
def _rotate_pairs(x, out, first, inside, cos, sin, quarter: tl.constexpr):
    a = tl.load(x + first, mask=inside).to(tl.float32)
    b = tl.load(x + first + quarter, mask=inside).to(tl.float32)
    tl.store(out + first, a * cos - b * sin, mask=inside)
    tl.store(out + first + quarter, b * cos + a * sin, mask=inside)


@triton.jit
def _rotate_rows(
    q, k, v, q_out, k_out, v_out, cos, sin, stride, out_stride, pairs,
    quarter: tl.constexpr, inverse: tl.constexpr, in_place: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    pair = tl.program_id(1) * block + tl.arange(0, block)
    inside = pair < pairs
    first = pair // quarter * (2 * quarter) + pair % quarter
    angle = row * (2 * quarter) + pair % (2 * quarter)
    c = tl.load(cos + angle, mask=inside)
    s = tl.load(sin + angle, mask=inside)
    if inverse:
        s = -s
    x, y = row * stride, row * out_stride
    _rotate_pairs(q + x, q_out + y, first, inside, c, s, quarter)
    _rotate_pairs(k + x, k_out + y, first, inside, c, s, quarter)
    if not in_place:
        for side in tl.static_range(2):
            offset = first + side * quarter
            tl.store(v_out + y + offset, tl.load(v + x + offset, mask=inside), mask=inside)


def rotate(
    inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], cos: Tensor, sin: Tensor, *, inverse: bool = False
) -> None:
    """See `rope.Rotate`; computed in fp32.

    cos, sin [b,s,1,2,d/4] fp32, contiguous. Rows h*d are contiguous, and equally far apart within `inputs` and within
    `outputs`: three tensors, or the parts of a fused one. `outputs` may be `inputs`.
    """
    b, s, heads, width = inputs[0].shape
    assert cos.is_contiguous()
    assert sin.is_contiguous()
    pairs = heads * width // 2
    block = min(BLOCK, triton.next_power_of_2(pairs))
    launch(
        _rotate_rows, (b * s, triton.cdiv(pairs, block)),
        *inputs, *outputs, cos, sin, _row(inputs[0]), _row(outputs[0]), pairs,
        quarter=width // 4, inverse=inverse, in_place=outputs[2].data_ptr() == inputs[2].data_ptr(), block=block,
        num_warps=8,
    )  # fmt: skip


def _row(x: Tensor) -> int:
    """Elements from one row of [b,s,h,d] to the next."""
    b, s, heads, width = x.shape
    row = x.stride(1) if s > 1 else x.stride(0)  # an axis of one has any stride
    assert x.stride(3) == 1
    assert heads == 1 or x.stride(2) == width
    assert min(b, s) == 1 or x.stride(0) == s * row
    return row
