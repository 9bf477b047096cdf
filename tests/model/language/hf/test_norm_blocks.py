"""Norms with their residual sums: the numbers of transformers' blocks, and on a GPU of each part."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import hf_families
import pytest
import torch
import torch.nn.functional as F
from fused_kernels import Kernels, standing_in
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from vglm_train.autograd import apply
from vglm_train.model.language.hf import blocks, forms, fused, opt
from vglm_train.model.language.hf.frozen import project

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels need a GPU")


@pytest.fixture
def kernels() -> Iterator[Kernels]:
    with standing_in() as made:
        yield made


def states_and_gradient(model: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """The last states of a model of `hf_families`, and what a fixed sum of them gives the embeddings."""
    draw = torch.Generator().manual_seed(2)
    x, above = (torch.randn(2, 7, 32, generator=draw) for _ in range(2))
    out = model.base_model(inputs_embeds=x.requires_grad_(), use_cache=False, **options)[0]
    return out.detach(), torch.autograd.grad(out, x, above)[0]


@pytest.mark.parametrize("name", [name for name, form in forms.BY_NAME.items() if form is blocks.Block])
def test_a_fused_block_computes_what_its_class_computes(kernels: Kernels, name: str) -> None:
    family, _, kind = name.partition(".")
    plain = hf_families.model("causal", hf_families.configuration(family)).requires_grad_(False)
    made = deepcopy(plain)
    forms.fuse(made)
    layers = [module for module in made.modules() if type(module).__name__ == kind]
    assert layers
    wanted = states_and_gradient(plain)
    assert not kernels.called
    found = states_and_gradient(made)
    assert kernels.called.count("add_norm") == kernels.called.count("add_norm_backward") == 2 * len(layers)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1]])
    kernels.called.clear()
    masked, wanted_masked = (
        states_and_gradient(made, attention_mask=mask),
        states_and_gradient(plain, attention_mask=mask),
    )
    assert "add_norm" not in kernels.called
    for one, other in zip((*found, *masked), (*wanted, *wanted_masked), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def error(x: Tensor, exact: Tensor) -> float:
    return float((x.double() - exact).norm() / exact.norm())


@gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [48, 128, 2560, 5000, 8192])
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("kind", [nn.LayerNorm, LlamaRMSNorm])
def test_norm_kernel_does_what_the_module_does(dtype: torch.dtype, width: int, adds: bool, kind: Any) -> None:
    torch.manual_seed(0)
    norm = kind(width, eps=1e-3)
    for name, parameter in norm.named_parameters():
        nn.init.normal_(parameter, float(name == "weight"), 0.3)
    norm = norm.cuda().to(dtype).requires_grad_(False)
    parts = [(torch.randn(3, 37, width, device="cuda") + 0.5).to(dtype) for _ in range(1 + adds)]
    above = [torch.randn(3, 37, width, device="cuda").to(dtype) for _ in range(2)]

    def run(fuses: bool, to: torch.dtype) -> tuple[Tensor, Tensor, list[Tensor]]:
        own = deepcopy(norm).to(to)
        x, *added = inputs = [part.to(to).requires_grad_() for part in parts]
        if fuses:
            forms.fuse(own)
            assert fused.takes(x)
            assert blocks.fits_norm(own, x)
            total, normed = blocks.add_norm(x, added[0] if added else None, own)
        else:
            total = x + added[0] if added else x * 1
            normed = own(total)
        found = torch.autograd.grad([total, normed], inputs, [each.to(to) for each in above])
        return total.detach(), normed.detach(), list(found)

    total, normed, gradients = run(True, dtype)
    wanted_total, wanted, wanted_gradients = run(False, dtype)
    assert torch.equal(total, wanted_total)
    # both round the same fp32 values; those that lie within an fp32 rounding of the middle may go either way
    assert (normed != wanted).float().mean() < 0.002
    assert error(normed, wanted.double()) < 0.1 * torch.finfo(dtype).eps
    _, _, exact = run(False, torch.float64)
    assert len(gradients) == len(exact)
    for one, other, true in zip(gradients, wanted_gradients, exact, strict=True):
        assert one.dtype == dtype
        assert error(one, true) < 1.05 * error(other, true)  # one rounding, where two were


@gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 37, 512])
def test_relu_at_the_end_of_a_product_is_relu(dtype: torch.dtype, rows: int) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(256, 1024, device="cuda", dtype=dtype).requires_grad_(False)
    nn.init.normal_(linear.bias)
    x = torch.randn(2, rows, 256, device="cuda", dtype=dtype, requires_grad=True)
    above = torch.randn(2, rows, 1024, device="cuda", dtype=dtype)
    found = apply(opt._LinearRelu, x, linear.weight, linear.bias)
    wanted = F.relu(linear(x))
    exact = F.relu(F.linear(x.double(), linear.weight.double(), linear.bias.double()))
    assert error(found, exact) < 1.02 * error(wanted, exact)
    # the mask is that of the values that were computed
    gradient = torch.autograd.grad(found, x, above)[0]
    masked = (above.double() * (found > 0)) @ linear.weight.double()
    assert error(gradient, masked) < torch.finfo(dtype).eps


@gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_projections_sum_their_gradients(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    linears = [nn.Linear(256, 256, device="cuda", dtype=dtype).requires_grad_(False) for _ in range(3)]
    x = torch.randn(4, 33, 256, device="cuda", dtype=dtype, requires_grad=True)
    above = [torch.randn(4, 33, 256, device="cuda", dtype=dtype) for _ in linears]
    found = project(x, linears)
    wanted = [each(x) for each in linears]
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))
    gradient, plain = (torch.autograd.grad(outs, x, above)[0] for outs in (found, wanted))
    exact = sum((g.double() @ each.weight.double() for g, each in zip(above, linears, strict=True)), torch.zeros(()))
    assert error(gradient, exact) < 1.05 * error(plain, exact)
