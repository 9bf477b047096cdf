"""Frozen linear layers as integers of eight or four bits with scales, for answering on small cards.

int8: a scale for each output, -127 to 127. int4: a scale for each 64 weights of an output, -7 to 7. A scale is the
largest magnitude divided by 127 or 7, so that no weight is off by more than half a step.

Few rows, as in decoding, are multiplied by a kernel that reads the codes (`integers_triton.py`). For many rows, and
where there is no kernel, the weight is dequantised and multiplied as usual.

i inputs, padded to whole blocks of 128; n blocks; o outputs. Codes are [n,o,bytes of a block]: what a program of the
kernel reads at once is contiguous.
"""

from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from vglm_train.model.language.packed import PackedLinear
from vglm_train.model.launch import builds

BLOCK, GROUP = 128, 64
FEW = 64  # rows that the kernel takes; for more, dequantising costs less than it saves
CHUNK = 2**24  # weights quantised at once
KERNEL_DTYPES = (torch.float16, torch.bfloat16)


class Kernels(Protocol):
    """What is needed of `integers_triton`."""

    def product(self, x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor: ...

    def dequantize(self, codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor: ...


class IntegerLinear(PackedLinear):
    """A layer in integers up to `most`."""

    most: ClassVar[int]

    def product(self, x: Tensor) -> Tensor:
        rows = x.numel() // self.inputs
        if x.is_cuda and 0 < rows <= FEW and self.dtype in KERNEL_DTYPES and (kernels := _kernels()):
            assert self.codes is not None
            assert self.scales is not None
            out = kernels.product(x.reshape(rows, self.inputs), self.codes, self.scales, self.bias)
            return out.view(*x.shape[:-1], self.outputs)
        return super().product(x)

    def pack(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        rows = max(1, CHUNK // self.inputs)
        parts = [self.pack_rows(part.detach()) for part in weight.split(rows)]
        return torch.cat([codes for codes, _ in parts], 1), torch.cat([scales for _, scales in parts], -1)

    def pack_rows(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Some outputs [o,i] -> codes [n,o,...], scales [...,o]."""
        raise NotImplementedError

    def full(self) -> Tensor:
        assert self.codes is not None
        assert self.scales is not None
        if self.codes.is_cuda and (kernels := _kernels()):
            return kernels.dequantize(self.codes, self.scales, self.dtype)[:, : self.inputs]
        n, o = self.codes.shape[:2]
        out = torch.empty(o, n * BLOCK, dtype=self.dtype, device=self.codes.device)
        self.unpack(self.codes, self.scales, out.view(o, n, BLOCK).transpose(0, 1))
        return out[:, : self.inputs]

    def unpack(self, codes: Tensor, scales: Tensor, out: Tensor) -> None:
        """Write the weights to `out` [n,o,128], each product computed in fp32 and rounded once."""
        raise NotImplementedError


class Int8Linear(IntegerLinear):
    """Codes [n,o,128] int8, scales [o] fp32."""

    name, most = "int8", 127

    @staticmethod
    def size(inputs: int, outputs: int) -> float:
        return outputs * (inputs + -inputs % BLOCK + 4)

    def pack_rows(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        codes, scales = _integers(weight, self.most, torch.float32)
        return _blocks(codes.to(torch.int8)).contiguous(), scales

    def unpack(self, codes: Tensor, scales: Tensor, out: Tensor) -> None:
        torch.mul(codes, scales[:, None], out=out)


class Int4Linear(IntegerLinear):
    """Codes [n,o,64] uint8 and scales [2n,o] bf16.

    Byte j of a block holds, each plus 8, weight j in its lower half and weight j + 64 in its upper.
    """

    name, most = "int4", 7

    @staticmethod
    def size(inputs: int, outputs: int) -> float:
        return outputs * (inputs + -inputs % BLOCK) * (0.5 + 2 / GROUP)

    def pack_rows(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        groups = _blocks(weight).unflatten(-1, (2, GROUP))  # [n,o,2,64]
        codes, scales = _integers(groups, self.most, torch.bfloat16)
        low, high = (codes + 8).to(torch.uint8).unbind(2)
        return low | high << 4, scales.transpose(1, 2).flatten(0, 1)

    def unpack(self, codes: Tensor, scales: Tensor, out: Tensor) -> None:
        wide = scales.float().unflatten(0, (-1, 2))[..., None]  # [n,2,o,1]
        for half, part in enumerate((codes & 15, codes >> 4)):
            torch.mul(part.view(torch.int8).sub_(8), wide[:, half], out=out[..., half * GROUP : (half + 1) * GROUP])


def _integers(groups: Tensor, most: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """[...,weights that share a scale] -> whole numbers, fp32, and scales [...] of `dtype`.

    Whole numbers are of the rounded scale: its rounding adds no error.
    """
    smallest = torch.finfo(torch.float32).tiny
    largest = groups.abs().amax(-1).float()
    # by a tensor: a GPU multiplies by the inverse of a number, which rounds twice
    scales = (largest / torch.full_like(largest, most)).clamp(min=smallest).to(dtype)
    return (groups.float() / scales.float()[..., None]).round_().clamp_(-most, most), scales


def _blocks(weight: Tensor) -> Tensor:
    """[o,i] -> [n,o,128], with zeros at the end."""
    blocks: Tensor = F.pad(weight, (0, -weight.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK)).transpose(0, 1)
    return blocks


@builds("a quantised model answers several times slower")
def _kernels() -> Kernels:
    from vglm_train.model.language import integers_triton

    x = torch.zeros(1, BLOCK, device="cuda", dtype=torch.float16)
    codes = torch.zeros(1, 16, BLOCK, device="cuda", dtype=torch.int8)
    integers_triton.product(x, codes, torch.zeros(16, device="cuda"), None)
    return integers_triton
