"""ChatGLM's rotation and attention in training. Over short rows on a GPU both work where the packed projections lie.

b rows, s tokens, h heads, d width of a head.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vglm_train.autograd import apply
from vglm_train.model.language.attention import Scores, attend, built, fits
from vglm_train.model.language.glm.rope import Rotation, SplitAndRotate, rotate_in_place, rotates_in_place


def rotate_and_attend(qkv: Tensor, rotation: Rotation, bias: Tensor) -> Tensor:
    """qkv [b,s,3,h,d], which may be overwritten, and bias [b,1,s,s], added to the scores -> [b,s,h*d]."""
    scores, (q, k, v) = Scores(qkv.shape[4] ** -0.5, bias), qkv.unbind(2)
    if fits(q, k, v, scores) and rotates_in_place(qkv):
        mixed: Tensor = apply(_RotateAndAttend, qkv, *rotation, scores)
        return mixed.flatten(2)
    q, k, v = apply(SplitAndRotate, qkv, *rotation)
    return attend(q, k, v, bias)


class _RotateAndAttend(torch.autograd.Function):
    """Queries and keys are rotated in place, values stay where they are, and so do their gradients."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, scores: Scores) -> Tensor:
        kernel, ctx.scale = built(), scores.scale
        rotate_in_place(qkv, cos, sin)
        out: Tensor
        out, lse = kernel.forward(kernel.Heads(*qkv.unbind(2)), kernel.How(**scores._asdict()))
        ctx.save_for_backward(qkv, cos, sin, out, lse, scores.bias)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        kernel = built()
        qkv, cos, sin, out, lse, bias = ctx.saved_tensors
        dqkv = torch.empty_like(qkv)
        inputs, grads = (kernel.Heads(*x.unbind(2)) for x in (qkv, dqkv))
        kernel.backward(grad, inputs, kernel.How(ctx.scale, bias), out, lse, grads)
        rotate_in_place(dqkv, cos, sin, inverse=True)
        return dqkv, None, None, None
