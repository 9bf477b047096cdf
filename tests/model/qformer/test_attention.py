"""Attention over packed projections: the plain computation, and on a GPU the kernels against it."""

import pytest
import torch
from hashed import kept
from torch import Tensor

from vglm_train.model.qformer.attention import attend, fuses

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels need a GPU")
HEADS, WIDTH = 3, 48
CASES = [  # rows, queries, keys (None: self-attention)
    (2, 5, None),
    (3, 33, None),
    (2, 128, None),
    (2, 4, 7),
    (3, 40, 70),
]


def made(n: int, s: int, p: int | None, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Projections x and image, and a bias that hides about half of the keys of self-attention."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(n, s, WIDTH if p else 3 * WIDTH, generator=draw).to(device, dtype)
    image = torch.randn(n, p, 2 * WIDTH, generator=draw).to(device, dtype) if p else None
    seen = (torch.rand(n, 1, s, s, generator=draw) < 0.5) | torch.eye(s, dtype=torch.bool)
    bias = torch.zeros(seen.shape).masked_fill(~seen, float("-inf")).to(device, dtype)
    return x, image, None if p else bias


def exact(x: Tensor, image: Tensor | None, bias: Tensor | None, factor: Tensor | None = None) -> Tensor:
    """By the formula, in fp64. factor [n,h,s,p]: what the probabilities are multiplied by."""
    packed = x.double().chunk(3, 2) if image is None else (x.double(), *image.double().chunk(2, 2))
    q, k, v = (part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in packed)
    scores = q @ k.transpose(2, 3) / (WIDTH // HEADS) ** 0.5
    p = (scores if bias is None else scores + bias.double()).softmax(3)
    return ((p if factor is None else p * factor) @ v).transpose(1, 2).flatten(2)


def values_and_gradients(function, *tensors: Tensor | None) -> list[Tensor]:
    """The function's value, and gradients of a fixed sum of it to the first tensors."""
    inputs = [x.detach().requires_grad_() if x is not None else None for x in tensors]
    out = function(*inputs)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.device, out.dtype)
    return [out, *torch.autograd.grad(out, [x for x in inputs if x is not None], weights)]


def error(value: Tensor, wanted: Tensor) -> float:
    return float((value.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize(("n", "s", "p"), CASES)
def test_plain_attention_is_the_formula(n: int, s: int, p: int | None) -> None:
    x, image, bias = made(n, s, p, torch.float64, "cpu")
    assert not fuses(x, image, HEADS)
    found = values_and_gradients(lambda *packed: attend(*packed, HEADS, bias, 0.0), x, image)
    wanted = values_and_gradients(lambda *packed: exact(*packed, bias), x, image)
    torch.testing.assert_close(found, wanted)


@gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("n", "s", "p"), CASES)
def test_kernels_are_the_formula(n: int, s: int, p: int | None, dtype: torch.dtype) -> None:
    x, image, bias = made(n, s, p, dtype, "cuda")
    assert fuses(x, image, HEADS)
    found = values_and_gradients(lambda *packed: attend(*packed, HEADS, bias, 0.0), x, image)
    wanted = values_and_gradients(lambda *packed: exact(*packed, bias), x, image)
    limit = 0.01 if dtype == torch.bfloat16 else 0.002  # a few roundings of 8 or 11 bits
    assert max(error(*pair) for pair in zip(found, wanted, strict=True)) < limit


@gpu
@pytest.mark.parametrize(("n", "s", "p"), CASES)
def test_dropout_of_the_kernels_is_the_formula_with_the_same_probabilities_left_out(
    n: int, s: int, p: int | None
) -> None:
    x, image, bias = made(n, s, p, torch.bfloat16, "cuda")
    rate, shape = 0.25, (n, HEADS, s, p or s)

    def seeded(*packed: Tensor) -> Tensor:
        torch.manual_seed(3)
        return attend(*packed, HEADS, bias, rate)

    torch.manual_seed(3)
    factor = kept(int(torch.randint(2**62, (1,), device="cuda")), shape, rate).to("cuda") / (1 - rate)
    found = values_and_gradients(seeded, x, image)
    wanted = values_and_gradients(lambda *packed: exact(*packed, bias, factor), x, image)
    assert max(error(*pair) for pair in zip(found, wanted, strict=True)) < 0.01


def test_what_is_kept_looks_random() -> None:
    """Of the rate asked for, and no more alike in neighbours, rows or two seeds than chance: 6 deviations."""
    rate, shape = 0.1, (8, 4, 128, 128)
    first, second = (kept(seed, shape, rate).double() - (1 - rate) for seed in (5 << 32 | 9, 5 << 32 | 10))
    count, variance = first.numel(), rate * (1 - rate)
    assert abs(first.mean()) < 6 * (variance / count) ** 0.5
    for other in (second, first.roll(1, 3), first.roll(1, 2), first.roll(1, 1), first.roll(1, 0)):
        assert abs((first * other).mean()) < 6 * variance / count**0.5
