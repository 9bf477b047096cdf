"""Frozen linear layers in four bits: NF4 of QLoRA (arXiv:2305.14314), half a byte a weight and a scale for each 64.

Scales are bf16: 0.25 bit a weight, where the paper's second quantisation takes 0.13.

A GPU dequantises with one kernel (`nf4_triton.py`), which gives the same numbers.

i inputs, o outputs, n = i * o weights, padded to whole blocks of 64.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from vglm_train.model.language.packed import PackedLinear
from vglm_train.model.launch import builds

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


class Kernels(Protocol):
    """What is needed of `nf4_triton`."""

    def dequantize(self, codes: Tensor, scales: Tensor, pairs: Tensor, block: int) -> Tensor: ...


def dequantize(codes: Tensor, scales: Tensor, table: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """The weight [o,i] in `dtype`; `table` is `pair_table(dtype)` on its device."""
    o, i = size
    if codes.is_cuda and (kernels := _kernels()):
        return kernels.dequantize(codes, scales, table.view(dtype), BLOCK)[: o * i].view(o, i)
    weights = table.index_select(0, codes.int()).view(dtype).view(-1, BLOCK)
    weights.mul_(scales[:, None].to(dtype))
    return weights.flatten()[: o * i].view(o, i)


class Nf4Linear(PackedLinear):
    """A layer in NF4."""

    name = "nf4"
    pairs: Tensor

    def __init__(self, inputs: int, outputs: int, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__(inputs, outputs, bias, dtype)
        self.register_buffer("pairs", None, persistent=False)

    @staticmethod
    def size(inputs: int, outputs: int) -> float:
        return inputs * outputs * (0.5 + 2 / BLOCK)

    def pack(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        with torch.device("cpu"):
            self.pairs = pair_table(self.dtype).to(weight.device)
        return quantize(weight)

    def full(self) -> Tensor:
        assert self.codes is not None
        assert self.scales is not None
        return dequantize(self.codes, self.scales, self.pairs, (self.outputs, self.inputs), self.dtype)


@builds("training in nf4 is slower")
def _kernels() -> Kernels:
    from vglm_train.model.language import nf4_triton

    codes = torch.zeros(BLOCK // 2, dtype=torch.uint8, device="cuda")
    nf4_triton.dequantize(codes, torch.zeros(1, device="cuda"), torch.zeros(512, device="cuda"), BLOCK)
    return nf4_triton
