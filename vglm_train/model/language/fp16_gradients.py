"""Gradient scaling: backward through a frozen fp16 model without loss of small gradients."""

from typing import Any

import torch
from torch import Tensor

from vglm_train.autograd import apply

TARGET = 1.0  # largest value of the scaled gradient of the logits: fp16 reaches from 2**-24 to 2**16


class GradientScaling:
    """Scales the gradients inside a frozen fp16 model by a power of two, and scales them back outside it.

    fp16 ends at 6e-8, which is the size of the gradient of one logit among 130 thousand, divided by all targets of a
    batch. Tensors enter the model by `enter`, and its logits leave it by `leave`. Backward chooses the power from the
    largest gradient of the logits, without a transfer to the host. Outside the model gradients are fp32 and exact,
    since a power of two costs no bit. For other dtypes both are plain casts. One object serves one forward pass.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.scale: Tensor | None = None  # set by the backward of `leave`, undone by that of `enter`

    def enter(self, embeds: Tensor) -> Tensor:
        """Embeddings in fp32 (see `LanguageModel.embed`) -> the model's dtype."""
        if self.dtype != torch.float16:
            return embeds.to(self.dtype)
        entered: Tensor = apply(_Enter, embeds, self)
        return entered

    def unscale(self, grad: Tensor) -> Tensor:
        """A gradient from inside the model -> the true gradient, in fp32."""
        if self.dtype != torch.float16:
            return grad.float()
        assert self.scale is not None, "the logits must leave through the object that the embeddings entered by"
        return grad.float() / self.scale

    def leave(self, logits: Tensor) -> Tensor:
        """fp16 logits -> fp32; other dtypes as they are."""
        if self.dtype != torch.float16:
            return logits
        left: Tensor = apply(_Leave, logits, self)
        return left


def embedding_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype for embeddings of a frozen model in `dtype`: an fp16 gradient of them could underflow."""
    return torch.float32 if dtype == torch.float16 else dtype


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embeds: Tensor, scaling: GradientScaling) -> Tensor:
        ctx.scaling, ctx.dtype = scaling, embeds.dtype
        return embeds.to(scaling.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return ctx.scaling.unscale(grad).to(ctx.dtype), None


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, scaling: GradientScaling) -> Tensor:
        ctx.scaling = scaling
        return logits.float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        largest = torch.stack(grad.aminmax()).abs().amax() if grad.numel() else grad.new_zeros(())
        power = torch.floor(torch.log2(TARGET / largest)).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        # no gradient at all: 1. Not finite: unchanged, so that the engine notices
        ctx.scaling.scale = torch.exp2(power.clamp(-24.0, 60.0)).float()
        # no second copy in fp32: a batch's logits are gigabytes
        return torch.mul(grad, ctx.scaling.scale, out=torch.empty_like(grad, dtype=torch.float16)), None
