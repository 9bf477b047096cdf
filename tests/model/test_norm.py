"""Layer norm under autocast."""

import torch
from torch import nn

from vglm_train.model.norm import LayerNorm


def made(width: int = 64) -> LayerNorm:
    torch.manual_seed(0)
    norm = LayerNorm(width, 1e-5)
    nn.init.normal_(norm.weight, 1.0, 0.1)
    nn.init.normal_(norm.bias, 0.0, 0.1)
    return norm


def test_is_the_plain_one_in_fp32():
    norm, x = made(), torch.randn(5, 64)
    plain = nn.LayerNorm(64, 1e-5)
    plain.load_state_dict(norm.state_dict())
    assert torch.equal(norm(x), plain(x))


def test_keeps_autocasts_dtype_and_stays_near_fp32():
    norm, x = made(), 3 + 2 * torch.randn(50, 64)
    exact = norm(x)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = norm(x.bfloat16())
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() / exact.norm() < 2e-2  # x itself is rounded at 2**-9 of 3


def test_its_weights_get_fp32_gradients():
    norm = made()
    with torch.autocast("cpu", torch.bfloat16):
        norm(torch.randn(5, 64)).float().square().sum().backward()
    assert norm.weight.grad.dtype == norm.bias.grad.dtype == torch.float32
