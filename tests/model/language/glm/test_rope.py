"""ChatGLM's 2-D rotation: exact, its gradient, and the GPU's kernel against torch's own operations."""

import pytest
import torch

from vglm_train.model.language.glm.rope import Rotary, SplitAndRotate, rotate


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_is_exact_at_far_positions(dtype):
    frequencies = 1.0 / 10000 ** (torch.arange(0, 64, 2).float() / 64)
    x = torch.randn(1, 1, 3, 1, 128).to(dtype)
    rotation = Rotary(frequencies)(torch.tensor([[[2000], [511]]]))
    q, k, v = SplitAndRotate.apply(x, *rotation)
    close = {"rtol": 0.01, "atol": 0.01} if dtype == torch.bfloat16 else {"rtol": 1e-3, "atol": 1e-3}
    for number, turned in enumerate((q, k)):
        for half, position in ((0, 2000), (1, 511)):
            first, second = x[0, 0, number, 0, 64 * half :][:64].double().chunk(2)
            angle = position * frequencies.double()
            cos, sin = angle.cos(), angle.sin()
            expected = torch.cat((first * cos - second * sin, second * cos + first * sin))
            torch.testing.assert_close(turned[0, 0, 0, 64 * half :][:64].double(), expected, **close)
    assert torch.equal(v, x[:, :, 2])


def test_gradient_of_the_rotation():
    x = torch.randn(2, 3, 3, 2, 8, dtype=torch.float64, requires_grad=True)
    positions = torch.randint(0, 50, (2, 2, 3))
    rotation = tuple(part.double() for part in Rotary(torch.tensor([1.0, 0.1]))(positions))
    assert torch.autograd.gradcheck(lambda qkv: SplitAndRotate.apply(qkv, *rotation), x)


def test_gradients_of_any_layout_give_the_same():
    x = torch.randn(2, 3, 3, 2, 8, requires_grad=True)
    rotation = Rotary(torch.tensor([1.0, 0.1]))(torch.randint(0, 50, (2, 2, 3)))
    out = SplitAndRotate.apply(x, *rotation)
    grads = [torch.randn_like(part) for part in out]
    wanted = torch.autograd.grad(out, x, grads, retain_graph=True)[0]
    turned = [grad.transpose(1, 2).contiguous().transpose(1, 2) for grad in grads]
    assert torch.equal(torch.autograd.grad(out, x, turned)[0], wanted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("heads", "width"), [(32, 128), (3, 24), (1, 4)])
@pytest.mark.parametrize("inverse", [False, True])
def test_kernel_does_what_torch_does(dtype, heads, width, inverse):
    from vglm_train.model.language.glm.rope_triton import rotate as kernel

    torch.manual_seed(0)
    read = torch.randn(2, 7, 3, heads, width, device="cuda").to(dtype).unbind(2)
    rotation = Rotary(torch.rand(width // 4)).cuda()(torch.randint(0, 2000, (2, 2, 7), device="cuda"))
    plain, fast = (torch.full((3, 2, 7, heads, width), torch.nan, device="cuda", dtype=dtype) for _ in range(2))
    rotate(read, plain.unbind(0), *rotation, inverse=inverse)
    kernel(read, fast.unbind(0), *rotation, inverse=inverse)
    if dtype == torch.float32:
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-6)
        return
    # both round fp32 values once; those that lie within an fp32 rounding of the middle may go either way
    different = fast != plain
    assert different.float().mean() < 0.002
    torch.testing.assert_close(fast, plain, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
