"""Frozen linear layers in four bits: NF4 of QLoRA (arXiv:2305.14314), half a byte a weight and a scale for each 64.

Scales are bf16: 0.25 bit a weight, where the paper's second quantisation takes 0.13. A weight is dequantised only while
its layer runs, in forward and again in backward. No gradient of it is ever computed.

i inputs, o outputs, n = i * o weights, padded to whole blocks of 64.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 64  # weights that share a scale
CHUNK = 2**18  # blocks quantised at once
LEVELS = (
    # The paper's appendix E: quantiles of a normal distribution with an exact zero, from -1 to 1.
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[o,i] -> codes [n/2] uint8, the first of two weights in the upper half, and scales [n/64] bf16."""
    blocks = F.pad(weight.detach().flatten(), (0, -weight.numel() % BLOCK)).view(-1, BLOCK)
    parts = [_quantize(part) for part in blocks.split(CHUNK)]
    return torch.cat([codes for codes, _ in parts]), torch.cat([scales for _, scales in parts])


def _quantize(blocks: Tensor) -> tuple[Tensor, Tensor]:
    levels = torch.tensor(LEVELS, device=blocks.device)
    scales = blocks.abs().amax(1).to(torch.bfloat16)
    share = blocks.float() / scales.float().clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    codes = torch.bucketize(share, (levels[1:] + levels[:-1]) / 2, out_int32=True).to(torch.uint8).view(-1, 2)
    return codes[:, 0] << 4 | codes[:, 1], scales


def pair_table(dtype: torch.dtype) -> Tensor:
    """For each byte of codes its two numbers of `dtype`, held as one integer, [256]."""
    levels, byte = torch.tensor(LEVELS), torch.arange(256)
    table = torch.stack((levels[byte >> 4], levels[byte & 15]), 1).to(dtype)  # [256,2]
    return table.view(torch.int64 if dtype == torch.float32 else torch.int32)[:, 0].clone()


def dequantize(codes: Tensor, scales: Tensor, table: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """The weight [o,i] in `dtype`; `table` is `pair_table(dtype)` on its device."""
    weights = table.index_select(0, codes.int()).view(dtype).view(-1, BLOCK)
    weights.mul_(scales[:, None].to(dtype))
    o, i = size
    return weights.flatten()[: o * i].view(o, i)


class Nf4Linear(nn.Module):
    """x W' + b in place of a frozen linear layer. Until a weight is set it has an empty one, on the meta device.

    `weight = tensor` quantises at once. So reading a file tensor by tensor never holds two in full precision.
    """

    codes: Tensor | None
    scales: Tensor | None
    pairs: Tensor
    bias: nn.Parameter | None

    def __init__(self, inputs: int, outputs: int, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.inputs, self.outputs, self.dtype = inputs, outputs, dtype
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))
        for name in ("codes", "scales"):
            self.register_buffer(name, None)
        self.register_buffer("pairs", None, persistent=False)
        empty = torch.empty(outputs, inputs, dtype=dtype, device="meta")
        self.register_parameter("weight", nn.Parameter(empty, requires_grad=False))

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight" and isinstance(value, Tensor) and not value.is_meta:
            self._quantize(value)
        else:
            super().__setattr__(name, value)

    def _quantize(self, weight: Tensor) -> None:
        assert weight.shape == (self.outputs, self.inputs), f"{list(weight.shape)}"
        self.codes, self.scales = quantize(weight)
        with torch.device("cpu"):
            self.pairs = pair_table(self.dtype).to(weight.device)
        self.register_parameter("weight", None)  # some models check whether there is one

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """An empty weight stays so: `to_empty` must not give it memory."""
        empty = self._parameters.pop("weight")
        super()._apply(fn, recurse)
        self._parameters["weight"] = empty
        return self

    def full(self) -> Tensor:
        """The dequantised weight [o,i]."""
        assert self.codes is not None
        assert self.scales is not None
        return dequantize(self.codes, self.scales, self.pairs, (self.outputs, self.inputs), self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return _FrozenLinear.apply(x.to(self.dtype), self)


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: Nf4Linear) -> Tensor:
        ctx.linear = linear
        return F.linear(x, linear.full(), linear.bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad @ ctx.linear.full(), None


def number_of_weights(module: nn.Module) -> int:
    """Weights of a module, those in four bits included."""
    quantised = [m for m in module.modules() if isinstance(m, Nf4Linear) and m.codes is not None]
    return sum(p.numel() for p in module.parameters()) + sum(m.inputs * m.outputs for m in quantised)


def frozen_bytes(module: nn.Module) -> int:
    """Bytes of a module's frozen weights, also of those that are still on the meta device."""
    size = 0.0
    for part in module.modules():
        own = [p for p in part.parameters(recurse=False) if not p.requires_grad]
        if isinstance(part, Nf4Linear):
            own = [p for p in own if p is not part.weight]
            size += part.inputs * part.outputs * (0.5 + 2 / BLOCK)
        size += sum(p.numel() * p.element_size() for p in own)
    return round(size)
