"""Products in eight bits: what a row becomes, what a layer multiplies, how far the encoder is from fp32."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vglm_train.config.model import Vision
from vglm_train.config.validation import FieldError
from vglm_train.model.vision import build_vision, check_card
from vglm_train.model.vision.eva import WIDE
from vglm_train.model.vision.fp8 import (
    TOP,
    Fp8Linear,
    Rows,
    copied_bytes,
    gelu_rows,
    has_fp8,
    norm_rows,
    product,
    quantize,
)

SMALL = Vision(image_size=32, patch=8, width=64, depth=WIDE + 4, heads=2, mlp_width=128, dtype="fp8")


def normal(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def test_a_number_moves_by_half_a_step_of_its_three_bits_at_most():
    x = normal(50, 64)
    rows = quantize(x)
    assert rows.codes.dtype == torch.float8_e4m3fn
    assert rows.scales.shape == (50, 1)
    moved = (rows.full() - x).abs()
    assert (moved <= x.abs() / 16 + rows.scales * 2**-10).all()  # 2**-9 is e4m3's smallest number
    assert moved.max() > 0


def test_the_largest_number_of_a_row_is_the_largest_code():
    x = normal(20, 64).bfloat16() * torch.logspace(-30, 30, 20)[:, None].bfloat16()
    rows = quantize(x)
    assert torch.equal(rows.codes.float().abs().amax(1), torch.full((20,), TOP))
    assert torch.allclose(rows.full().abs().amax(1), x.float().abs().amax(1), rtol=1e-6)


def test_an_outlier_leaves_the_rest_of_its_row_precise():
    """What e4m3 has instead of a finer grid: numbers 1,000 times smaller keep their three bits."""
    x = normal(10, 64).sign() * (1 + normal(10, 64, seed=1).abs())
    x[:, 7] = 1000
    assert ((quantize(x).full() - x).abs() <= x.abs() / 16).all()


def test_rows_of_zeros_stay_zeros():
    x = normal(3, 16)
    x[1] = 0
    found = quantize(x).full()
    assert torch.equal(found[1], torch.zeros(16))
    assert found[[0, 2]].abs().amin(1).gt(0).any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_row_that_is_not_finite_is_nan_and_no_other(bad):
    x = normal(4, 16).bfloat16()
    x[2, 5] = bad
    layer = Fp8Linear(16, 16).bfloat16().requires_grad_(False)
    for rows in (quantize(x), norm_rows(x, None, norm(16))[1], gelu_rows(layer, quantize(x))):
        out = layer(rows)
        assert out[2].isnan().all()
        assert out[[0, 1, 3]].isfinite().all()


def norm(width: int) -> nn.LayerNorm:
    made = nn.LayerNorm(width, 1e-6).bfloat16().requires_grad_(False)
    made.weight.copy_(1 + 0.1 * normal(width, seed=2))
    made.bias.copy_(0.1 * normal(width, seed=3))
    return made


def test_sum_and_norm_are_those_of_bf16_but_for_the_rounding():
    x, added = normal(2, 5, 32).bfloat16(), normal(2, 5, 32, seed=1).bfloat16()
    total, rows = norm_rows(x, added, norm(32))
    assert torch.equal(total, x + added)
    wide = norm(32).float()
    expected = quantize(F.layer_norm(total.float(), (32,), wide.weight, wide.bias, 1e-6))
    assert torch.equal(rows.full(), expected.full())


def test_a_product_is_that_of_the_numbers_in_eight_bits():
    x, weight, bias = quantize(normal(7, 48)), quantize(normal(32, 48, seed=1)), normal(32, seed=2).bfloat16()
    exact = x.full().double() @ weight.full().double().T + bias.double()
    found = product(x.codes, x.scales, weight, bias)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize("planted", [False, True])
def test_the_scale_between_the_products_of_an_mlp_is_never_too_small(planted):
    """It is known before the product. Numbers stay below the largest code, and keep their three bits."""
    torch.manual_seed(0)
    layer = Fp8Linear(64, 256).bfloat16().requires_grad_(False)
    x = normal(500, 64)
    if planted:
        layer.weight[:2] *= 30
        x[:, 5] *= 50
        x[0] = layer.weight[0] * 100  # as large as a product can be
    rows = quantize(x)
    found = gelu_rows(layer, rows)
    assert found.codes.float().abs().max() < TOP
    exact = F.gelu(F.linear(rows.full(), layer.quantized()[0].full(), layer.bias.float()), approximate="tanh")
    assert ((found.full() - exact).abs() <= exact.abs() / 16 + found.scales * 2**-10).all()
    small = slice(1, None), slice(2, None)  # neither the planted row nor the planted outputs
    assert (found.full() - exact)[small].norm() < 0.04 * exact[small].norm()


def test_a_weight_that_changes_is_quantised_again():
    torch.manual_seed(0)
    layer = Fp8Linear(16, 32).bfloat16().requires_grad_(False)
    x = quantize(normal(3, 16))
    before = layer(x)
    assert layer.quantized()[0] is layer.quantized()[0]
    layer.weight.mul_(-1)
    torch.testing.assert_close(layer(x) - layer.bias, layer.bias - before, rtol=0.1, atol=0.1)
    layer.weight = nn.Parameter(torch.zeros(32, 16, dtype=torch.bfloat16), requires_grad=False)
    assert torch.equal(layer(x), layer.bias.expand(3, 32))


@torch.no_grad()
def towers(planted: bool):
    """The same weights in fp32, in bf16 and in eight bits."""
    torch.manual_seed(0)
    source = build_vision(replace(SMALL, dtype="fp32"))
    for parameter in source.parameters():
        if parameter.dim() == 1:
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    if planted:
        source.encoder.positions[:, :2] += torch.tensor([40.0, -60.0])
        for number, block in enumerate(source.encoder.blocks):
            block.norm2.weight[number : number + 3] *= 80
            block.mlp.up.weight[:, number : number + 3] /= 9 if number % 2 else 80
            block.mlp.up.weight[:2] *= 30
    others = [build_vision(replace(SMALL, dtype=dtype)) for dtype in ("bf16", "fp8")]
    for tower in others:
        tower.load_state_dict(source.state_dict())
    return source, *others


@pytest.mark.parametrize("planted", [False, True])
def test_the_encoder_is_near_fp32_with_outliers_too(planted):
    exact, bf16, fp8 = (tower(normal(2, 3, 32, 32)).float() for tower in towers(planted))
    kept = exact.abs().amax((0, 1)) < 10  # all channels but the massive ones, which would hide the rest
    assert (~kept).sum() == (2 if planted else 0)

    def error(found: torch.Tensor) -> float:
        return ((found - exact)[..., kept].norm() / exact[..., kept].norm()).item()

    assert error(bf16) < error(fp8) < 0.05


def test_it_is_the_same_encoder_to_everybody_else():
    tower, plain = build_vision(SMALL), build_vision(replace(SMALL, dtype="bf16"))
    assert tower(normal(2, 3, 32, 32)).dtype == tower.dtype == torch.bfloat16
    shapes = [{name: (t.shape, t.dtype) for name, t in each.state_dict().items()} for each in (tower, plain)]
    assert shapes[0] == shapes[1]
    assert (tower.fp8, plain.fp8) == (1, 0)
    kinds = [type(block.mlp.up) for block in tower.encoder.blocks]
    assert kinds == [nn.Linear] * WIDE + [Fp8Linear] * 4
    width, hidden = SMALL.width, SMALL.mlp_width
    qkv, mlp = 3 * width * (width + 4), 2 * width * hidden + 4 * (width + hidden)
    assert copied_bytes(tower) == SMALL.depth * qkv + 4 * mlp
    assert copied_bytes(plain) == 0


def test_blocks_that_train_are_not_in_eight_bits():
    _, _, tower = towers(planted=False)
    plain = build_vision(replace(SMALL, dtype="bf16"))
    plain.load_state_dict(tower.state_dict())
    x = normal(2, 17, 64)
    for each in (tower, plain):
        each.train_last(1)
    block, other = (each.encoder.blocks[-1] for each in (tower, plain))
    assert all(torch.equal(here, there) for here, there in zip(block(x), other(x), strict=True))
    assert tower(normal(2, 3, 32, 32)).requires_grad


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"family": "clip"}, "fp8 is for the family eva; clip runs in bf16"),
        ({"width": 40}, "multiples of 16, but width is 40"),
        ({"mlp_width": 100}, "multiples of 16, but mlp_width is 100"),
    ],
)
def test_shapes_it_does_not_take(values, words):
    with pytest.raises(FieldError, match=words) as error:
        replace(SMALL, **values)
    assert error.value.fields[0] == "dtype"


def test_a_cpu_does_not_train_with_it():
    with pytest.raises(FieldError, match=r"compute capability 9\.0\), and .*would train on its CPU\. Set bf16"):
        check_card(SMALL, torch.device("cpu"))
    check_card(replace(SMALL, dtype="bf16"), torch.device("cpu"))


def moved(rows: Rows, device: torch.device | str) -> Rows:
    return Rows(*(part if part is None else part.to(device) for part in rows))


@pytest.mark.skipif(
    not has_fp8(torch.device("cuda" if torch.cuda.is_available() else "cpu")), reason="needs a Hopper GPU"
)
@torch.no_grad()
def test_kernels_give_the_plain_numbers():
    x, added = (normal(3, 7, 1408, seed=seed).bfloat16() for seed in (0, 1))
    x[0, 1], x[0, 2, 3], x[1, 1, 5] = 0, 5e4, float("nan")

    def normed(x: torch.Tensor, added: torch.Tensor | None) -> Rows:
        return norm_rows(x, None if added is None else added.to(x.device), norm(1408).to(x.device))[1]

    def hidden(x: torch.Tensor) -> Rows:
        torch.manual_seed(0)
        up = Fp8Linear(1408, 2832).bfloat16().requires_grad_(False)  # no multiple of a tile
        return gelu_rows(up.to(x.device), moved(quantize(x.cpu()), x.device))

    for function, most in ((partial(normed, added=None), 0.01), (partial(normed, added=added), 0.01), (hidden, 0.04)):
        here, there = function(x), moved(function(x.cuda()), "cpu")
        torch.testing.assert_close(there.scales, here.scales, rtol=1e-3, atol=0, equal_nan=True)
        assert apart(there.full(), here.full()) < most  # sums of a tensor core may round a code otherwise
    torch.manual_seed(0)
    layer, rows = Fp8Linear(1408, 2816).bfloat16(), quantize(x)
    expected = layer(rows)
    assert apart(layer.cuda()(moved(rows, "cuda")).cpu(), expected) < 0.01


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest relative distance of two rows; rows that are NaN must be so in both."""
    bad = expected.isnan().any(-1)
    assert torch.equal(found.isnan().any(-1), bad)
    distance = (found - expected).float()[~bad].norm(dim=-1) / expected.float()[~bad].norm(dim=-1).clamp(min=1e-6)
    return distance.max().item()
