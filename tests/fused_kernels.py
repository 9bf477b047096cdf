"""What the kernels for transformers' modules compute, by torch's operations: fused code on any machine."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from vglm_train.model.language.hf import frozen, fused

PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


@dataclass
class Kernels:
    """`called` has the names of what ran."""

    called: list[str] = field(default_factory=list)

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        self.called.append("norm")
        return _rms_norm(x, weight, eps)

    def norm_backward(self, grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        self.called.append("norm_backward")
        scale = scale.view(*x.shape[:-1], 1)
        normed, slope = x.float() * scale, grad.float() * weight.float()
        return (scale * (slope - normed * (slope * normed).mean(-1, keepdim=True))).to(x.dtype)

    def add_norm(self, x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float) -> Any:
        self.called.append("add_norm")
        total = x if added is None else x + added
        if bias is not None:
            return total, *torch.native_layer_norm(total, weight.shape, weight, bias, eps)
        normed, scale = _rms_norm(total, weight, eps)
        return total, normed, None, scale

    def add_norm_backward(
        self, above: Tensor, grad: Tensor, total: Tensor, weight: Tensor, mean: Tensor | None, scale: Tensor
    ) -> Tensor:
        self.called.append("add_norm_backward")
        scale = scale.view(*total.shape[:-1], 1)
        normed, slope = (total if mean is None else total - mean) * scale, grad * weight
        slope = slope - normed * (slope * normed).mean(-1, keepdim=True)
        if mean is not None:
            slope = slope - (grad * weight).mean(-1, keepdim=True)
        return torch.add(scale * slope, above).to(total.dtype)

    def gated(self, a: Tensor, b: Tensor, act: str) -> Tensor:
        self.called.append("gated")
        return PLAIN[act](a) * b

    def gated_backward(self, grad: Tensor, a: Tensor, b: Tensor, da: Tensor, db: Tensor, act: str) -> None:
        self.called.append("gated_backward")
        with torch.enable_grad():
            inputs = (a.detach().requires_grad_(), b.detach().requires_grad_())
            found = torch.autograd.grad(PLAIN[act](inputs[0]) * inputs[1], inputs, grad)
        da.copy_(found[0])
        db.copy_(found[1])

    def noted(self, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        """`run`, whose calls are noted as well."""

        def noting(*inputs: Any, **options: Any) -> Any:
            self.called.append(name)
            return run(*inputs, **options)

        return noting


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    scale = torch.rsqrt(x.float().square().mean(-1) + eps)
    return (x.float() * scale[..., None]).to(weight.dtype) * weight, scale.flatten()


@contextmanager
def standing_in() -> Iterator[Kernels]:
    """Fused on this machine too, and in every precision."""
    made = Kernels()
    every = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

    def takes(x: Tensor) -> bool:
        return not torch.compiler.is_compiling() and x.is_contiguous()

    with patch.multiple(fused, kernels=lambda: made, HALF=every, takes=takes), patch.object(frozen, "HALF", every):
        yield made
