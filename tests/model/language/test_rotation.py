"""The rotation as one compiled step: what eager gives, in value and gradient."""

import pytest
import torch

from vglm_train.model.language._sat import Rotary
from vglm_train.model.language.rotation import SplitAndRotate


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)])
def test_compiled_rotation_is_the_eager_one(dtype: torch.dtype, atol: float) -> None:
    """bf16: a product and sum are rounded once, or twice where a machine fuses them; an ulp at 1 is 2^-7."""
    torch.manual_seed(0)
    for b, s in ((2, 5), (3, 7)):
        rotation = Rotary(torch.tensor([1.0, 0.1]))(torch.randint(0, 50, (b, 2, s)))
        x = torch.randn(b, s, 3, 2, 8).to(dtype)
        weight = [torch.randn(b, s, 2, 8).to(dtype) for _ in range(3)]
        found = []
        for fused in (False, True):
            leaf = x.clone().requires_grad_()
            try:
                parts = SplitAndRotate.apply(leaf, *rotation, fused)
                sum((part * w).sum() for part, w in zip(parts, weight)).backward()
            except torch._inductor.exc.InductorError:  # no C++ compiler on this machine
                pytest.skip("torch.compile needs a C++ compiler")
            found.append((*parts, leaf.grad))
        for eager, compiled in zip(*found, strict=True):
            assert compiled.dtype == dtype
            torch.testing.assert_close(compiled, eager, rtol=0.01 if dtype == torch.bfloat16 else 1e-5, atol=atol)
