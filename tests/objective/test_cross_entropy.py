"""Cross entropy of target tokens: torch's, in value and gradient."""

import pytest
import torch
import torch.nn.functional as F

from vglm_train.objective.cross_entropy import CHUNK, fused_losses, token_losses


def test_token_losses_are_cross_entropy_in_value_and_gradient():
    logits = torch.randn(2 * CHUNK + 7, 11, dtype=torch.float64).requires_grad_()
    targets = torch.randint(0, 11, (len(logits),))
    weights = torch.rand(len(logits))
    (token_losses(logits, targets) * weights).sum().backward()
    found, logits.grad = logits.grad, None
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    assert torch.allclose(token_losses(logits, targets), losses, atol=1e-6)  # of logits up to 4
    (losses * weights).sum().backward()
    assert torch.allclose(found, logits.grad, atol=1e-6)  # a probability less 1: what is left of terms of 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels need a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("words", [11, 4096, 30523])
def test_kernels_are_cross_entropy(dtype, words):
    draw = torch.Generator().manual_seed(0)
    logits = (8 * torch.randn(70, words, generator=draw)).to("cuda", dtype).requires_grad_()
    targets, weights = torch.randint(0, words, (70,), generator=draw).cuda(), torch.rand(70, generator=draw).cuda()
    losses = token_losses(logits, targets)
    (found,) = torch.autograd.grad((losses * weights).sum(), logits)
    wide = logits.detach().double().requires_grad_()
    expected = F.cross_entropy(wide, targets, reduction="none")
    (wanted,) = torch.autograd.grad((expected * weights).sum(), wide)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-4)  # of logits up to 40
    error = (found.double() - wanted).norm() / wanted.norm()
    assert error < max(1e-5, torch.finfo(dtype).eps)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels need a GPU")
def test_kernels_smooth_and_ignore_as_torch_does():
    draw = torch.Generator().manual_seed(0)
    padded = torch.randn(6, 7, 104, generator=draw).to("cuda", torch.bfloat16).requires_grad_()
    targets = torch.randint(0, 101, (6, 7), generator=draw)
    targets[:, 4:] = -100
    targets, logits = targets.cuda().flatten(), padded[..., :101]  # rows that do not follow each other at once
    (found,) = torch.autograd.grad(fused_losses(logits.flatten(0, 1), targets, 0.1).sum(), padded)
    wide = padded.detach().double().requires_grad_()
    expected = F.cross_entropy(wide[..., :101].flatten(0, 1), targets, reduction="none", label_smoothing=0.1)
    (wanted,) = torch.autograd.grad(expected.sum(), wide)
    torch.testing.assert_close(
        fused_losses(logits.flatten(0, 1), targets, 0.1).double(), expected, rtol=1e-5, atol=1e-5
    )
    assert (found.double() - wanted).norm() / wanted.norm() < torch.finfo(torch.bfloat16).eps
