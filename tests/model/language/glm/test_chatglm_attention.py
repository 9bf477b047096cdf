"""ChatGLM's rotation and attention in one place, against one after the other."""

import pytest
import torch
from torch import Tensor

from vglm_train.model.language import attention
from vglm_train.model.language.attention import Scores
from vglm_train.model.language.glm import attention as glm_attention
from vglm_train.model.language.glm.attention import rotate_and_attend
from vglm_train.model.language.glm.rope import Rotary, Rotation, rotate

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels need a GPU")


def made(b: int, s: int, heads: int, width: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Rotation, Tensor]:
    draw = torch.Generator().manual_seed(0)
    qkv = torch.randn(b, s, 3, heads, width, generator=draw).to(device, dtype)
    positions = torch.randint(0, 500, (b, 2, s), generator=draw).to(device)
    rotation = Rotary(torch.rand(width // 4, generator=draw)).to(device)(positions)
    seen = (torch.rand(b, 1, s, s, generator=draw) < 0.5) | torch.eye(s, dtype=torch.bool)
    bias = torch.zeros(b, 1, s, s + 3)[..., :s].masked_fill(~seen, float("-inf")).to(device, dtype)
    return qkv, rotation, bias


def value_and_gradient(qkv: Tensor, rotation: Rotation, bias: Tensor) -> tuple[Tensor, Tensor]:
    x = qkv.detach().clone().requires_grad_()
    out = rotate_and_attend(x * 1, rotation, bias)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.device, out.dtype)
    return out.detach(), torch.autograd.grad(out, x, weights)[0]


def error(value: Tensor, wanted: Tensor) -> float:
    return float((value.double() - wanted).norm() / wanted.norm())


@gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(2, 96, 4, 128), (3, 21, 2, 64), (1, 1, 1, 16)])
def test_in_place_is_the_formula(size: tuple[int, ...], dtype: torch.dtype) -> None:
    qkv, rotation, bias = made(*size, dtype, "cuda")
    wide = tuple(part.double() for part in rotation)
    wanted = value_and_gradient(qkv.double(), wide, bias.double())
    limit = 0.015 if dtype == torch.bfloat16 else 0.003  # some roundings of 8 or 11 bits: of what is rotated too
    found = value_and_gradient(qkv, rotation, bias)
    assert max(error(*pair) for pair in zip(found, wanted, strict=True)) < limit


@gpu
def test_whoever_kept_the_projections_gets_an_error_and_no_wrong_gradient() -> None:
    qkv, rotation, bias = made(2, 21, 2, 64, torch.bfloat16, "cuda")
    packed = qkv.requires_grad_() * 1
    kept = packed.square()
    out = rotate_and_attend(packed, rotation, bias)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (out.sum() + kept.sum()).backward()


@gpu
def test_without_a_gradient_the_projections_stay_as_they_are() -> None:
    qkv, rotation, bias = made(2, 21, 2, 64, torch.bfloat16, "cuda")
    before = qkv.clone()
    rotate_and_attend(qkv, rotation, bias)
    assert torch.equal(qkv, before)


class StandIn:
    """The attention's kernels, by the plain computation."""

    Heads = staticmethod(lambda *heads: heads)
    How = staticmethod(Scores)

    @staticmethod
    def forward(heads: tuple[Tensor, Tensor, Tensor], scores: Scores) -> tuple[Tensor, Tensor]:
        q, k, v = (x.transpose(1, 2) for x in heads)
        products = q @ k.transpose(2, 3) * scores.scale + scores.bias
        return (products.softmax(3) @ v).transpose(1, 2).contiguous(), torch.zeros(1)

    @classmethod
    def backward(
        cls,
        grad: Tensor,
        heads: tuple[Tensor, ...],
        scores: Scores,
        out: Tensor,
        lse: Tensor,
        grads: tuple[Tensor, ...],
    ) -> None:
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_() for x in heads]
            found = torch.autograd.grad(cls.forward(inputs, scores)[0], inputs, grad)
        for into, value in zip(grads, found, strict=True):
            into.copy_(value)


def rotated_in_place(qkv: Tensor, cos: Tensor, sin: Tensor, *, inverse: bool = False) -> None:
    parts = qkv.detach().unbind(2)
    rotate([part.clone() for part in parts], parts, cos, sin, inverse=inverse)


def test_it_goes_through_the_kernels_as_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv, rotation, bias = made(2, 7, 3, 16, torch.float64, "cpu")
    rotation = tuple(part.double() for part in rotation)
    wanted = value_and_gradient(qkv, rotation, bias)
    monkeypatch.setattr(glm_attention, "fits", lambda *_: True)
    monkeypatch.setattr(glm_attention, "rotates_in_place", lambda _: True)
    monkeypatch.setattr(glm_attention, "rotate_in_place", rotated_in_place)
    monkeypatch.setattr(glm_attention, "built", lambda: StandIn)
    found = value_and_gradient(qkv, rotation, bias)
    torch.testing.assert_close(found, wanted)
    assert attention.fits is not glm_attention.fits  # the plain path above was torch's
