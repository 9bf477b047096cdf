"""EVA's blocks with sums inside of the products: the numbers of the plain blocks."""

from unittest.mock import patch

import pytest
import torch

from vglm_train.config.model import Vision
from vglm_train.model.vision import fused, in_place
from vglm_train.model.vision.base import VisionEncoder
from vglm_train.model.vision.eva import EvaVit

SHAPE = Vision(image_size=32, patch=8, width=48, depth=3, heads=2, mlp_width=64)


def encoder() -> EvaVit:
    """Random weights, with gains and biases that are not all one and zero."""
    torch.manual_seed(0)
    made = EvaVit(SHAPE)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made


def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_numbers_are_those_of_plain_blocks() -> None:
    plain = encoder().double()
    x = plain.stem(pixels().double())
    wanted = plain(pixels().double())
    assert not in_place.applies(plain.blocks, x)
    torch.testing.assert_close(in_place.run(plain.blocks, x), wanted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels need a GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_on_a_gpu_no_less_exact_than_plain(dtype: torch.dtype) -> None:
    with torch.no_grad():
        exact = encoder().double()(pixels().double()).float()
    tower = VisionEncoder(encoder().cuda(), SHAPE.width, 17, dtype)
    with torch.no_grad():
        assert in_place.applies(tower.encoder.blocks, tower.encoder.stem(pixels().cuda().to(dtype)))
    found = tower(pixels().cuda()).float().cpu()
    with patch.object(fused, "fuses", lambda _: False):
        plain = tower(pixels().cuda()).float().cpu()
    error, plain_error = ((x - exact).norm() / exact.norm() for x in (found, plain))
    assert error < plain_error + 1e-3  # the GELU of fused kernels is the tanh form, 5e-4 away at most
