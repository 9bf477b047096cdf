"""Backward through a frozen model in half precision without loss of small gradients."""

import torch
from torch import Tensor

TARGET = 1.0  # of the scaled gradient of the logits: fp16 reaches 2**16 above and 2**-24 below


class GradientScaling:
    """The way into a frozen fp16 model and out of it; gradients in between are scaled by a power of two.

    fp16 ends at 6e-8, where the gradient of one logit among 130 thousand, divided by all targets of a batch, lies.
    The power is chosen in backward, from the largest gradient of the logits, without a transfer to the host. Outside
    the gate gradients are fp32 and exact: a power of two costs no bit. For other dtypes both ways are plain casts.
    One gate serves one forward pass.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.scale: Tensor | None = None  # set by the backward of `leave`, undone by that of `enter`

    def enter(self, embeds: Tensor) -> Tensor:
        """Embeddings in fp32 (see `LanguageModel.embed`) -> the model's dtype."""
        if self.dtype != torch.float16:
            return embeds.to(self.dtype)
        return _Enter.apply(embeds, self)

    def outside(self, grad: Tensor) -> Tensor:
        """A gradient found between the logits' gate and the embeddings' -> what it is outside of both, in fp32."""
        if self.dtype != torch.float16:
            return grad.float()
        assert self.scale is not None, "the logits must leave through the gate that the embeddings entered by"
        return grad.float() / self.scale

    def leave(self, logits: Tensor) -> Tensor:
        """fp16 logits -> fp32; other dtypes as they are."""
        if self.dtype != torch.float16:
            return logits
        return _Leave.apply(logits, self)


def embedding_dtype(dtype: torch.dtype) -> torch.dtype:
    """What embeddings of a frozen model in `dtype` are held in: an fp16 gradient of them could underflow."""
    return torch.float32 if dtype == torch.float16 else dtype


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx, embeds: Tensor, gate: GradientScaling) -> Tensor:
        ctx.gate, ctx.dtype = gate, embeds.dtype
        return embeds.to(gate.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        return ctx.gate.outside(grad).to(ctx.dtype), None


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, gate: GradientScaling) -> Tensor:
        ctx.gate = gate
        return logits.float()

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        largest = torch.stack(grad.aminmax()).abs().amax() if grad.numel() else grad.new_zeros(())
        power = torch.floor(torch.log2(TARGET / largest)).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        # no gradient at all: 1. Not finite: as it is, for whoever watches for it
        ctx.gate.scale = torch.exp2(power.clamp(-24.0, 60.0)).float()
        # no second copy in fp32: a batch's logits are gigabytes
        return torch.mul(grad, ctx.gate.scale, out=torch.empty_like(grad, dtype=torch.float16)), None
