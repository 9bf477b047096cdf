"""Cross entropy of many targets over a large vocabulary, which holds no logits in fp32 but those that are given so.

m targets, v vocabulary.
"""

from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from vglm_train.autograd import apply
from vglm_train.model.launch import builds

CHUNK = 256  # targets whose logits are in fp32 at once: with 130 thousand words, three times 0.13 GB


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Logits [m,v] of any precision and targets [m] -> losses [m], fp32.

    One kernel each way on a GPU. Elsewhere only CHUNK rows of logits are ever held in fp32; their softmax is computed
    again in backward.
    """
    if not len(targets):
        return logits.float().sum(-1)  # [0], and backward finds every parameter
    if fuses(logits):
        return fused_losses(logits, targets)
    parts = zip(logits.split(CHUNK), targets.split(CHUNK))
    return torch.cat([checkpoint(_cross_entropy, part, target, use_reentrant=False) for part, target in parts])


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets, reduction="none")


def fuses(logits: Tensor) -> bool:
    """Whether kernels compute the losses of logits [...,v]."""
    return logits.is_cuda and logits.stride(-1) == 1 and _kernels() is not None


def fused_losses(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """F.cross_entropy with label smoothing of logits [m,v] and targets [m] -> [m] fp32; 0 for a negative target."""
    losses: Tensor = apply(_Fused, logits, targets, smoothing)
    return losses


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        kernels = _kernels()
        assert kernels is not None
        losses: Tensor
        losses, lse = kernels.forward(logits, targets, smoothing)
        ctx.save_for_backward(logits, targets, lse)
        ctx.smoothing = smoothing
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        kernels = _kernels()
        assert kernels is not None
        return kernels.backward(*ctx.saved_tensors, grad.contiguous(), ctx.smoothing), None, None


@builds("losses over words are 1 or 2 % of a step slower")
def _kernels() -> ModuleType:
    from vglm_train.objective import cross_entropy_triton

    logits, target = torch.zeros(1, 16, device="cuda"), torch.zeros(1, device="cuda", dtype=torch.int64)
    _, lse = cross_entropy_triton.forward(logits, target, 0.1)
    cross_entropy_triton.backward(logits, target, lse, lse, 0.1)
    return cross_entropy_triton
