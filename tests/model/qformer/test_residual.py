"""Dropout, residual and norm: the plain operations, and on a GPU the kernels against the formula."""

import pytest
import torch
import torch.nn.functional as F
from hashed import kept
from torch import Tensor, nn

from vglm_train.model.norm import LayerNorm
from vglm_train.model.qformer.residual import add_and_norm, fuses

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels need a GPU")
INPUTS, EPS = 20, 1e-12
SIZES = [(3, 5, 48), (2, 130, 100), (40, 33, 768), (1, 1, 3000)]  # rows, tokens, width


def made(n: int, s: int, width: int, dtype: torch.dtype, device: str) -> tuple[nn.Linear, LayerNorm, Tensor, Tensor]:
    """A linear layer and a norm with gains and shifts, and what they read."""
    torch.manual_seed(0)
    linear, norm = nn.Linear(INPUTS, width), LayerNorm(width, EPS)
    nn.init.normal_(norm.weight, 1.0, 0.5)
    nn.init.normal_(norm.bias)
    x, hidden = torch.randn(n, s, INPUTS), torch.randn(n, s, width) + 0.5
    x, hidden = (tensor.to(device, dtype).requires_grad_() for tensor in (x, hidden))
    return linear.to(device, dtype), norm.to(device, dtype), x, hidden


def exact(linear: nn.Linear, norm: LayerNorm, x: Tensor, hidden: Tensor, factor: Tensor | float = 1.0) -> Tensor:
    """By the formula, in fp64."""
    y = x.double() @ linear.weight.double().T + linear.bias.double()
    added = y * factor + hidden.double()
    apart = added - added.mean(-1, keepdim=True)
    normed = apart / (apart.square().mean(-1, keepdim=True) + EPS).sqrt()
    return normed * norm.weight.double() + norm.bias.double()


def values_and_gradients(out: Tensor, linear: nn.Linear, norm: LayerNorm, x: Tensor, hidden: Tensor) -> list[Tensor]:
    """A value, and what a fixed sum of it gives everything that it is made of."""
    draw = torch.Generator().manual_seed(1)
    weights = torch.randn(out.shape, generator=draw).to(out.device, out.dtype)
    return [out, *torch.autograd.grad(out, [x, hidden, *linear.parameters(), *norm.parameters()], weights)]


def error(value: Tensor, wanted: Tensor) -> float:
    return float((value.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize("size", SIZES)
def test_the_plain_operations_are_the_formula(size: tuple[int, int, int]) -> None:
    linear, norm, x, hidden = made(*size, torch.float64, "cpu")
    assert not fuses(linear, hidden)
    parts = (linear, norm, x, hidden)
    found = values_and_gradients(add_and_norm(linear, x, hidden, norm, 0.0), *parts)
    torch.testing.assert_close(found, values_and_gradients(exact(*parts), *parts))


@gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", SIZES)
def test_kernels_are_the_formula(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    linear, norm, x, hidden = parts = made(*size, dtype, "cuda")
    assert fuses(linear, hidden)
    found = values_and_gradients(add_and_norm(linear, x, hidden, norm, 0.0), *parts)
    wanted = values_and_gradients(exact(*parts), *parts)
    limit = 0.01 if dtype == torch.bfloat16 else 0.002  # a few roundings of 8 or 11 bits
    assert max(error(*pair) for pair in zip(found, wanted, strict=True)) < limit


@gpu
@pytest.mark.parametrize("size", SIZES)
def test_forward_rounds_as_the_plain_operations_do(size: tuple[int, int, int]) -> None:
    """All but a value in a thousand are the same 16 bits: the sums of a norm have another order."""
    linear, norm, x, hidden = made(*size, torch.bfloat16, "cuda")
    with torch.autocast("cuda", torch.bfloat16):
        found, wanted = add_and_norm(linear, x, hidden, norm, 0.0), norm(linear(x) + hidden)
    assert (found != wanted).float().mean() < 1e-3
    torch.testing.assert_close(found, wanted, rtol=2**-7, atol=2**-7)


@gpu
@pytest.mark.parametrize("size", SIZES)
def test_dropout_of_the_kernels_is_the_formula_with_the_same_values_left_out(size: tuple[int, int, int]) -> None:
    linear, norm, x, hidden = parts = made(*size, torch.bfloat16, "cuda")
    rate = 0.25
    torch.manual_seed(3)
    seed = int(torch.randint(2**62, (1,), device="cuda"))
    factor = kept(seed, size, rate).to("cuda") / (1 - rate)
    torch.manual_seed(3)
    found = values_and_gradients(add_and_norm(linear, x, hidden, norm, rate), *parts)
    wanted = values_and_gradients(exact(*parts, factor), *parts)
    assert max(error(*pair) for pair in zip(found, wanted, strict=True)) < 0.01


@gpu
def test_trained_weights_in_fp32_get_gradients_in_fp32() -> None:
    """As under autocast without recorded passes, where weights are cast one by one."""
    linear, norm, x, hidden = made(3, 5, 48, torch.float32, "cuda")
    hidden = hidden.detach().bfloat16().requires_grad_()
    with torch.autocast("cuda", torch.bfloat16):
        out = add_and_norm(linear, x, hidden, norm, 0.0)
        plain = norm(F.dropout(linear(x), 0.0) + hidden)
    assert out.dtype == plain.dtype == torch.bfloat16
    found, wanted = (values_and_gradients(each, linear, norm, x, hidden) for each in (out, plain))
    assert [each.dtype for each in found] == [each.dtype for each in wanted]
    assert max(error(*pair) for pair in zip(found, wanted, strict=True)) < 0.01


@gpu
def test_what_the_kernels_do_not_take_runs_plainly() -> None:
    linear, norm, x, hidden = made(3, 5, 48, torch.float32, "cuda")
    assert not fuses(linear, hidden)
    torch.testing.assert_close(add_and_norm(linear, x, hidden, norm, 0.0), norm(linear(x) + hidden))
    linear, norm, x, hidden = made(3, 5, 5000, torch.bfloat16, "cuda")
    assert not fuses(linear, hidden)
