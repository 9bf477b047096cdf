"""Frozen linear layers whose weights are codes of a few bits with scales: what all formats share.

A weight is dequantised only while its layer runs, in forward and again in backward. In a block whose activations are
computed again for its backward, it stays from then until backward has used it. No gradient of it is ever computed.

i inputs, o outputs.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vglm_train.autograd import apply


class PackedLinear(nn.Module):
    """x W' + b in place of a frozen linear layer. Until a weight is set it has an empty one, on the meta device.

    `weight = tensor` quantises at once. So reading a file tensor by tensor never holds two in full precision.
    """

    name: ClassVar[str]  # of the format
    codes: Tensor | None
    scales: Tensor | None
    bias: nn.Parameter | None
    keeps = False  # the weight of a forward until its backward: see `keep_weights`

    def __init__(self, inputs: int, outputs: int, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.inputs, self.outputs, self.dtype = inputs, outputs, dtype
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))
        for name in ("codes", "scales"):
            self.register_buffer(name, None)
        empty = torch.empty(outputs, inputs, dtype=dtype, device="meta")
        self.register_parameter("weight", nn.Parameter(empty, requires_grad=False))

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight" and isinstance(value, Tensor) and not value.is_meta:
            self._quantize(value)
        else:
            super().__setattr__(name, value)

    def _quantize(self, weight: Tensor) -> None:
        assert weight.shape == (self.outputs, self.inputs), f"{list(weight.shape)}"
        self.codes, self.scales = self.pack(weight)
        self.register_parameter("weight", None)  # some models check whether there is one

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """An empty weight stays so: `to_empty` must not give it memory. Scales keep their dtype."""
        empty, scales = self._parameters.pop("weight"), self.scales
        nn.Module._apply(self, fn, recurse)
        self._parameters["weight"] = empty
        if scales is not None and self.scales is not None:
            self.scales = scales.to(self.scales.device)
        return self

    @staticmethod
    def size(inputs: int, outputs: int) -> float:
        """Bytes of codes and scales."""
        raise NotImplementedError

    def pack(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """[o,i] -> codes and scales."""
        raise NotImplementedError

    def full(self) -> Tensor:
        """The dequantised weight [o,i]."""
        raise NotImplementedError

    def product(self, x: Tensor) -> Tensor:
        """x [...,i] in the layer's dtype -> [...,o]."""
        return F.linear(x, self.full(), self.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype)
        if not torch.is_grad_enabled():
            return self.product(x)
        if self.keeps:
            return F.linear(x, self.full(), self.bias)
        output: Tensor = apply(_FrozenLinear, x, self)
        return output


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: PackedLinear) -> Tensor:
        ctx.linear = linear
        return linear.product(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad @ ctx.linear.full(), None


def keep_weights(model: nn.Module, on: bool) -> None:
    """Whether a weight stays from forward to backward.

    Only for blocks that are recomputed: their first forward drops it, and one block's weights stand in memory at once.
    """
    for part in model.modules():
        if isinstance(part, PackedLinear):
            part.keeps = on


def number_of_weights(module: nn.Module) -> int:
    """Weights of a module, quantised ones included."""
    quantised = [m for m in module.modules() if isinstance(m, PackedLinear) and m.codes is not None]
    return sum(p.numel() for p in module.parameters()) + sum(m.inputs * m.outputs for m in quantised)


def unpacked_bytes(block: nn.Module) -> int:
    """Bytes of the weights that a recomputed block keeps for its backward."""
    packed = [part for part in block.modules() if isinstance(part, PackedLinear)]
    return sum(part.inputs * part.outputs * part.dtype.itemsize for part in packed)


def frozen_bytes(module: nn.Module) -> int:
    """Bytes of a module's frozen weights, also of those that are still on the meta device."""
    size = 0.0
    for part in module.modules():
        own = [p for p in part.parameters(recurse=False) if not p.requires_grad]
        if isinstance(part, PackedLinear):
            own = [p for p in own if p is not part.weight]
            size += part.size(part.inputs, part.outputs)
        size += sum(p.numel() * p.element_size() for p in own)
    return round(size)
