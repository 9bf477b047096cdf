"""The Q-Former's own GPU kernels, where they can be built."""

from types import ModuleType
from typing import NamedTuple

import torch

from vglm_train.model.launch import builds

HALF = (torch.float16, torch.bfloat16)  # what they compute in


class Kernels(NamedTuple):
    """The modules that hold them."""

    attention: ModuleType
    residual: ModuleType


@builds("the Q-Former runs slower")
def built() -> Kernels:
    from vglm_train.model import attention_triton
    from vglm_train.model.qformer import residual_triton

    x = torch.zeros(1, 1, 1, 16, device="cuda", dtype=torch.bfloat16)
    heads, how = attention_triton.Heads(x, x, x), attention_triton.How(1.0)
    out, lse = attention_triton.forward(heads, how)
    attention_triton.backward(out, heads, how, out, lse, attention_triton.Heads(*(x.clone() for _ in range(3))))
    x = x[0, 0]
    out, added, mean, scale = residual_triton.forward(x, x, x[0], x[0], None, 1e-12, 0.0)
    residual_triton.backward(out, added, x[0], None, mean, scale, 0.0)
    return Kernels(attention_triton, residual_triton)


def available() -> bool:
    """Whether they can be built."""
    return built() is not None


def ask_once() -> None:
    """Let compiled functions ask while they are compiled. It imports torch's compiler, which takes a second."""
    torch.compiler.assume_constant_result(available)
