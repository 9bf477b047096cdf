"""Cross entropy over a large vocabulary as one Triton kernel each way. Imported only for tensors on a GPU.

m targets, v vocabulary.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # logits that a program looks at together


@triton.jit
def _losses(logits, targets, losses, lse, stride, vocabulary, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    most = tl.full([block], -3.0e38, tl.float32)
    total = tl.zeros([block], tl.float32)
    for start in range(0, vocabulary, block):
        word = start + tl.arange(0, block)
        x = tl.load(logits + word, mask=word < vocabulary, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(most, x)
        total = total * tl.exp(most - higher) + tl.exp(x - higher)
        most = higher
    highest = tl.max(most, 0)
    log_sum = highest + tl.log(tl.sum(total * tl.exp(most - highest), 0))
    tl.store(lse + row, log_sum)
    tl.store(losses + row, log_sum - tl.load(logits + tl.load(targets + row)).to(tl.float32))


@triton.jit
def _gradients(logits, targets, lse, grad, out, stride, vocabulary, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    word = tl.program_id(1) * block + tl.arange(0, block)
    inside = word < vocabulary
    x = tl.load(logits + row * stride + word, mask=inside, other=0.0).to(tl.float32)
    p = tl.exp(x - tl.load(lse + row))
    p = tl.where(word == tl.load(targets + row), p - 1.0, p) * tl.load(grad + row)
    tl.store(out + row * vocabulary + word, p.to(out.dtype.element_ty), mask=inside)


def forward(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [m,v] with rows of their own and targets [m] int64 -> losses [m] and logarithms of sums [m], fp32."""
    m, v = logits.shape
    losses, lse = (torch.empty(m, dtype=torch.float32, device=logits.device) for _ in range(2))
    with torch.cuda.device_of(logits):
        _losses[(m,)](logits, targets, losses, lse, logits.stride(0), v, block=BLOCK, num_warps=8)
    return losses, lse


def backward(logits: Tensor, targets: Tensor, lse: Tensor, grad: Tensor) -> Tensor:
    """The gradient of the logits [m,v], of losses whose gradient is `grad` [m] fp32."""
    m, v = logits.shape
    out = torch.empty(m, v, dtype=logits.dtype, device=logits.device)
    with torch.cuda.device_of(logits):
        _gradients[(m, triton.cdiv(v, BLOCK))](
            logits, targets, lse, grad, out, logits.stride(0), v, block=BLOCK, num_warps=8
        )
    return out
