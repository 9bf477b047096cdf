"""What an encoder in eight bits computes around its products, as Triton kernels. Imported only for tensors on a GPU.

They write codes while the numbers are in registers, as `vglm_train.model.vision.fp8` does plainly. No gradient.

c channels, i inputs, o outputs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from triton.tools.tensor_descriptor import TensorDescriptor

from vglm_train.model.launch import launch

CODES = torch.float8_e4m3fn
WARPS = 4  # of a norm of 1408; 2 and 8 take as long
ROWS, OUTPUTS, INPUTS = 256, 128, 128  # of a product's tile; 128 x 256 takes 10 % longer


@triton.jit
def _gelu_product(
    x, weight, out, x_scales, lengths, weight_scales, bias, limits, scales, rows, outputs,
    inputs: tl.constexpr, top: tl.constexpr, least: tl.constexpr,
    size_r: tl.constexpr, size_o: tl.constexpr, size_i: tl.constexpr, together: tl.constexpr,
):  # fmt: skip
    """A tile of codes of GELU(x W' + b). Programs of `together` neighbouring tiles of rows run after one another."""
    across, down = tl.cdiv(outputs, size_o), tl.cdiv(rows, size_r)
    group = tl.program_id(0) // (together * across)
    first = group * together
    height = tl.minimum(down - first, together)
    within = tl.program_id(0) % (together * across)
    r0, o0 = (first + within % height) * size_r, within // height * size_o
    total = tl.zeros((size_r, size_o), tl.float32)
    for i in range(0, inputs, size_i):
        total = tl.dot(x.load([r0, i]), weight.load([o0, i]).T, total)
    r, o = r0 + tl.arange(0, size_r), o0 + tl.arange(0, size_o)
    in_r, in_o = r < rows, o < outputs
    total *= tl.load(x_scales + r, mask=in_r, other=0.0)[:, None]
    total *= tl.load(weight_scales + o, mask=in_o, other=0.0)[None, :]
    total += tl.load(bias + o, mask=in_o, other=0.0).to(tl.float32)[None, :]
    # 0.5 (1 + tanh(y)) is 1 / (1 + exp(-2 y))
    total /= 1.0 + tl.exp(-1.5957691216057308 * (total + 0.044715 * total * total * total))
    length = tl.load(lengths + r, mask=in_r, other=0.0)
    scale = tl.maximum(length * tl.load(limits) + tl.load(limits + 1), least) + 0.0 * length  # a maximum leaves NaN out
    tl.store(scales + r, scale, mask=in_r & (o0 == 0))
    out.store([r0, o0], tl.clamp(total * tl.div_rn(1.0, scale)[:, None], -top, top).to(out.dtype))


@triton.jit
def _norm_rows(
    x, added, weight, bias, total, codes, scales, lengths, width, eps,
    has_added: tl.constexpr, top: tl.constexpr, least: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, block)
    inside = channel < width
    value = tl.load(x + row * width + channel, mask=inside, other=0.0).to(tl.float32)
    if has_added:
        value += tl.load(added + row * width + channel, mask=inside, other=0.0).to(tl.float32)
        kept = value.to(total.dtype.element_ty)  # what the plain sum rounds to: the norm is of that
        tl.store(total + row * width + channel, kept, mask=inside)
        value = kept.to(tl.float32)
    mean = tl.sum(value, 0) / width
    centred = tl.where(inside, value - mean, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 0) / width + eps)
    gain = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    value = centred * scale * gain + shift  # 0 outside
    scale = tl.maximum(tl.div_rn(tl.max(tl.abs(value), 0), top), least)
    scale += 0.0 * tl.sum(value, 0)  # a maximum leaves NaN out
    code = tl.clamp(value * tl.div_rn(1.0, scale), -top, top)
    tl.store(codes + row * width + channel, code.to(codes.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale)
    tl.store(lengths + row, tl.sqrt_rn(tl.sum(value * value, 0)))


def gelu_product(
    x: tuple[Tensor, ...], weight: tuple[Tensor, ...], bias: Tensor, limits: Tensor, top: float, least: float
) -> tuple[Tensor, Tensor]:
    """x: codes [...,i], scales and lengths; weight: codes [o,i], scales -> codes [...,o], scales of GELU(x W' + b)."""
    (codes, x_scales, lengths), (weights, weight_scales) = x, weight
    rows, inputs, outputs = x_scales.numel(), codes.shape[-1], weights.shape[0]
    out, scales = codes.new_empty(*codes.shape[:-1], outputs), torch.empty_like(x_scales)
    tiles = TensorDescriptor.from_tensor
    with torch.cuda.device_of(out):
        _gelu_product[(triton.cdiv(rows, ROWS) * triton.cdiv(outputs, OUTPUTS),)](
            tiles(codes.view(rows, inputs), [ROWS, INPUTS]),
            tiles(weights, [OUTPUTS, INPUTS]),
            tiles(out.view(rows, outputs), [ROWS, OUTPUTS]),
            x_scales, lengths, weight_scales, bias, limits, scales, rows, outputs,
            inputs=inputs, top=top, least=least, size_r=ROWS, size_o=OUTPUTS, size_i=INPUTS,
            together=8, num_warps=8, num_stages=4,
        )  # fmt: skip
    return out, scales


def add_norm(x: Tensor, added: Tensor | None, norm: nn.LayerNorm, top: float, least: float) -> tuple[Tensor, ...]:
    """x, added [...,c] contiguous -> their sum; codes [...,c], scales [...,1] and lengths [...,1] of its norm."""
    assert x.is_contiguous()
    assert added is None or added.is_contiguous()
    total, codes, width = x if added is None else torch.empty_like(x), torch.empty_like(x, dtype=CODES), x.shape[-1]
    scales, lengths = (torch.empty(*x.shape[:-1], 1, dtype=torch.float32, device=x.device) for _ in range(2))
    launch(
        _norm_rows, (scales.numel(),), x, x if added is None else added, norm.weight, norm.bias, total, codes, scales,
        lengths, width, norm.eps,
        has_added=added is not None, top=top, least=least, block=triton.next_power_of_2(width), num_warps=WARPS,
    )  # fmt: skip
    return total, codes, scales, lengths
