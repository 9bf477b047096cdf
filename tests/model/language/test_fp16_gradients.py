"""The gradient of an fp16 model's logits on its way in."""

import math

import pytest
import torch

from vglm_train.model.language.fp16_gradients import GradientScaling


@pytest.mark.parametrize(
    ("largest", "power"),
    [(3e-9, 28), (-3e-9, 28), (0.75, 0), (-6.0, -3), (0.0, 0), (math.inf, 0), (-math.inf, 0), (math.nan, 0)],
)
def test_the_largest_gradient_of_either_sign_gives_the_power_of_two(largest, power):
    scaling, logits = GradientScaling(torch.float16), torch.zeros(3, 5, dtype=torch.float16, requires_grad=True)
    grad = torch.linspace(-1, 1, 15).view(3, 5) * (abs(largest) / 2 if math.isfinite(largest) else 0.1)
    grad[1, 2] = largest
    scaling.leave(logits).backward(grad)
    assert scaling.scale == 2.0**power
    torch.testing.assert_close(logits.grad, (grad * scaling.scale).half(), rtol=0, atol=0, equal_nan=True)


def test_no_targets_give_no_scale_but_one():
    scaling, logits = GradientScaling(torch.float16), torch.zeros(0, 5, dtype=torch.float16, requires_grad=True)
    scaling.leave(logits).backward(torch.zeros(0, 5))
    assert scaling.scale == 1
    assert logits.grad.shape == (0, 5)
