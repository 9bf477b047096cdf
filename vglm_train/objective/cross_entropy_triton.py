"""Cross entropy over a large vocabulary as one Triton kernel each way. Imported only for tensors on a GPU.

m targets, v vocabulary.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from vglm_train.model.launch import launch

BLOCK = 4096  # logits that a program looks at together


@triton.jit
def _losses(logits, targets, losses, lse, stride, vocabulary, smoothing, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    if target < 0:
        tl.store(losses + row, 0.0)
        return
    logits += row * stride
    most = tl.full([block], -3.0e38, tl.float32)
    total = tl.zeros([block], tl.float32)
    plain = tl.zeros([block], tl.float32)
    for start in range(0, vocabulary, block):
        word = start + tl.arange(0, block)
        x = tl.load(logits + word, mask=word < vocabulary, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(most, x)
        total = total * tl.exp(most - higher) + tl.exp(x - higher)
        most = higher
        plain += tl.where(word < vocabulary, x, 0.0)
    highest = tl.max(most, 0)
    log_sum = highest + tl.log(tl.sum(total * tl.exp(most - highest), 0))
    tl.store(lse + row, log_sum)
    loss = log_sum - (1 - smoothing) * tl.load(logits + target).to(tl.float32)
    if smoothing > 0:
        loss -= smoothing * tl.sum(plain, 0) / vocabulary
    tl.store(losses + row, loss)


@triton.jit
def _gradients(logits, targets, lse, grad, out, stride, vocabulary, smoothing, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    word = tl.program_id(1) * block + tl.arange(0, block)
    inside = word < vocabulary
    target = tl.load(targets + row)
    out += row * vocabulary + word
    if target < 0:
        tl.store(out, tl.zeros([block], out.dtype.element_ty), mask=inside)
        return
    x = tl.load(logits + row * stride + word, mask=inside, other=0.0).to(tl.float32)
    p = tl.exp(x - tl.load(lse + row)) - smoothing / vocabulary
    p = tl.where(word == target, p - (1 - smoothing), p) * tl.load(grad + row)
    tl.store(out, p.to(out.dtype.element_ty), mask=inside)


def forward(logits: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Logits [m,v], each row contiguous, and targets [m] int64 -> losses [m] and logarithms of sums [m], fp32.

    A negative target costs nothing. smoothing: the share of the target that all words have in equal parts.
    """
    m, v = logits.shape
    losses, lse = (torch.empty(m, dtype=torch.float32, device=logits.device) for _ in range(2))
    launch(_losses, (m,), logits, targets, losses, lse, logits.stride(0), v, smoothing, block=BLOCK, num_warps=8)
    return losses, lse


def backward(logits: Tensor, targets: Tensor, lse: Tensor, grad: Tensor, smoothing: float) -> Tensor:
    """The gradient of the logits [m,v], of losses whose gradient is `grad` [m] fp32."""
    m, v = logits.shape
    out = torch.empty(m, v, dtype=logits.dtype, device=logits.device)
    inputs, grid = (logits, targets, lse, grad, out), (m, triton.cdiv(v, BLOCK))
    launch(_gradients, grid, *inputs, logits.stride(0), v, smoothing, block=BLOCK, num_warps=8)
    return out
