"""An encoder's attention: torch's bits where that computes it, and on a GPU the kernel against the formula."""

from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vglm_train.model.vision import attention, fused
from vglm_train.model.vision.attention import attend, fuses

gpu = pytest.mark.skipif(
    not (torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == attention.HOPPER),
    reason="the kernel needs a Hopper GPU",
)
HEADS = 3
TOKENS = [1, 5, 17, 64, 65, 257, 1025]
WIDTHS = [16, 24, 64, 80, 88, 128]  # of a head
HALF = [torch.bfloat16, torch.float16]


def made(p: int, d: int, dtype: torch.dtype, device: str = "cpu") -> Tensor:
    """Packed projections of two pictures. Scores spread enough for the softmax to be far from a mean."""
    drawn = torch.randn(2, p, 3 * HEADS * d, generator=torch.Generator().manual_seed(0))
    return (1.5 * drawn).to(device, dtype)


def exact(qkv: Tensor, heads: int = HEADS) -> Tensor:
    """By the formula, in fp64."""
    q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in qkv.double().chunk(3, 2))
    return ((q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(3) @ v).transpose(1, 2).flatten(2)


def plain(qkv: Tensor, heads: int = HEADS) -> Tensor:
    q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, 2))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def error(value: Tensor, wanted: Tensor) -> float:
    return float((value.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("p", [1, 17, 65])
def test_plain_attention_is_the_formula(p: int) -> None:
    qkv = made(p, 24, torch.float64)
    found = attend(qkv, HEADS)
    assert found.is_contiguous()
    torch.testing.assert_close(found, exact(qkv))


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_elsewhere_the_bits_are_those_of_torch(dtype: torch.dtype) -> None:
    qkv = made(17, 24, dtype)
    with torch.no_grad():
        assert not fuses(qkv, HEADS)
        assert torch.equal(attend(qkv, HEADS), plain(qkv))


def test_the_plain_computation_has_a_gradient() -> None:
    qkv, same = (made(17, 24, torch.float64).requires_grad_() for _ in range(2))
    draw = torch.Generator().manual_seed(1)
    weights = torch.randn(2, 17, HEADS * 24, generator=draw, dtype=torch.float64)
    found, wanted = ((out * weights).sum() for out in (attend(qkv, HEADS), exact(same)))
    torch.testing.assert_close(torch.autograd.grad(found, qkv), torch.autograd.grad(wanted, same))


@pytest.mark.parametrize(
    ("d", "change", "takes"),
    [
        (88, "", True),
        (16, "", True),
        (128, "", True),
        (84, "", False),
        (8, "", False),
        (136, "", False),
        (88, "strided", False),
        (88, "shifted", False),
        (88, "empty", False),
        (88, "other", False),
        (88, "card", False),
        (88, "compiled", False),
    ],
)
def test_what_the_kernel_takes(d: int, change: str, takes: bool) -> None:
    """On the CPU, as if its tensors lay on a Hopper GPU."""
    x = made(5, d, torch.bfloat16)
    if change == "strided":
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    elif change == "shifted":
        x = torch.cat((x.new_zeros(1), x.flatten()))[1:].view(x.shape)
    elif change == "empty":
        x = x[:0]
    with (
        patch.object(fused, "fuses", lambda _: change != "other"),
        patch.object(attention, "is_hopper", lambda _: change != "card"),
        patch.object(torch.compiler, "is_compiling", lambda: change == "compiled"),
    ):
        assert fuses(x, HEADS) is takes


def test_the_kernel_gets_the_packed_projections_and_what_it_gives_is_returned() -> None:
    qkv, given = made(5, 24, torch.bfloat16), []
    result = torch.ones(2, 5, 3 * 24)

    def stand_in(x: Tensor, heads: int) -> Tensor:
        given.append((x, heads))
        return result

    with (
        patch.object(fused, "fuses", lambda _: True),
        patch.object(attention, "is_hopper", lambda _: True),
        patch.object(attention, "kernel", lambda: SimpleNamespace(attend=stand_in)),
    ):
        assert attend(qkv, HEADS) is result
        assert given[0][0] is qkv
        assert given[0][1] == HEADS
    with (
        patch.object(fused, "fuses", lambda _: True),
        patch.object(attention, "is_hopper", lambda _: True),
        patch.object(attention, "kernel", lambda: None),
    ):
        assert torch.equal(attend(qkv, HEADS), plain(qkv))


@gpu
@torch.no_grad()
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("p", TOKENS)
def test_the_kernel_is_the_formula(p: int, d: int, dtype: torch.dtype) -> None:
    """Roundings to 16 bits, of the probabilities and of the result, are all that it may differ by."""
    qkv = made(p, d, dtype, "cuda")
    assert fuses(qkv, HEADS)
    found, wanted = attend(qkv, HEADS), exact(qkv)
    assert found.shape == wanted.shape
    assert found.is_contiguous()
    assert found.dtype == dtype
    step = torch.finfo(dtype).eps
    assert error(found, wanted) < 0.4 * step
    # sums of the same products in another order, and no worse than torch's
    assert error(found, wanted) < 1.1 * error(plain(qkv), wanted) + 1e-3 * step
    assert (found.double() - wanted).abs().max() < 2 * step * wanted.abs().max()


@gpu
@torch.no_grad()
@pytest.mark.parametrize("p", [5, 65, 257, 300])
def test_large_scores_of_one_token_or_of_another(p: int) -> None:
    """A softmax that is nearly one key, be it the first, which is apart, or the last; and no overflow."""
    for key in (0, p - 1):
        qkv = made(p, 88, torch.bfloat16, "cuda")
        qkv[:, key, HEADS * 88 : 2 * HEADS * 88] *= 20
        found = attend(qkv, HEADS)
        assert found.isfinite().all()
        assert error(found, exact(qkv)) < torch.finfo(torch.bfloat16).eps


@gpu
@torch.no_grad()
@pytest.mark.parametrize("p", [65, 257, 300])
def test_pictures_and_heads_do_not_mix(p: int) -> None:
    """What is not finite stays in its own head of its own picture."""
    qkv = made(p, 88, torch.bfloat16, "cuda")
    clean = attend(qkv, HEADS)
    qkv[1].unflatten(1, (3, HEADS, 88))[:, :, 1] = float("nan")
    found = attend(qkv, HEADS).view(2, p, HEADS, 88)
    assert found[1, :, 1].isnan().all()
    kept = torch.ones(2, HEADS, dtype=torch.bool)
    kept[1, 1] = False
    for picture, head in kept.nonzero().tolist():
        assert torch.equal(found[picture, :, head], clean.view(2, p, HEADS, 88)[picture, :, head])


@gpu
@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 16])
def test_of_many_pictures_each_is_as_alone(heads: int) -> None:
    draw = torch.Generator("cuda").manual_seed(2)
    qkv = torch.randn(40, 257, 3 * heads * 88, generator=draw, device="cuda").bfloat16()
    found = attend(qkv, heads)
    assert error(found, exact(qkv, heads)) < 0.4 * torch.finfo(torch.bfloat16).eps
    assert torch.equal(found[39:], attend(qkv[39:].clone(), heads))


@gpu
def test_with_gradient_or_in_fp32_torch_computes_it() -> None:
    qkv = made(17, 24, torch.bfloat16, "cuda")
    assert not fuses(qkv, HEADS)
    with torch.no_grad():
        assert fuses(qkv, HEADS)
        assert not fuses(qkv.float(), HEADS)
        with torch.autocast("cuda", torch.bfloat16):
            assert not fuses(qkv, HEADS)
