"""The image encoder's last blocks."""

from dataclasses import replace

import pytest
import tiny
import tiny_language
import torch

from vglm_train.config.tuning import Rule, Tuning, VisionBlocks
from vglm_train.config.validation import FieldError
from vglm_train.model.tuning import apply_tuning
from vglm_train.model.vision import build_vision
from vglm_train.objective.generation import GenerationObjective

FROZEN = (Rule(match="*", train=False),)
FAMILIES = ("eva", "clip", "siglip")


def build(family="eva", dtype="fp16", depth=3):
    vision = replace(tiny.MODEL.vision, family=family, dtype=dtype, depth=depth)
    return tiny_language.build(replace(tiny_language.CHATGLM, vision=vision))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_trains_computes_the_same(family):
    torch.manual_seed(0)
    vision = build_vision(replace(tiny.MODEL.vision, family=family, depth=3))
    pixels = torch.randn(2, 3, 16, 16)
    before = vision(pixels)
    vision.train_last(2)
    after = vision(pixels)
    torch.testing.assert_close(after, before)
    assert after.requires_grad


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_last_blocks_are_fp32_and_the_rest_is_left_alone(family, dtype):
    model = build(family, dtype)
    low = {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    lines = apply_tuning(model, Tuning(rules=FROZEN, vision_blocks=VisionBlocks(last=2, decay=0.5)))
    trained = {line.name: line.lr for line in lines if line.trained}
    assert {name: p.dtype for name, p in model.vision.named_parameters() if p.requires_grad} == {
        name.removeprefix("vision."): torch.float32 for name in trained
    }
    assert {p.dtype for p in model.vision.parameters() if not p.requires_grad} == {low}
    last = {lr for name, lr in trained.items() if ".2." in name}
    first = {lr for name, lr in trained.items() if ".1." in name}
    assert (last, first) == ({1.0}, {0.5})
    with torch.autocast("cpu", torch.bfloat16):
        GenerationObjective(model.train())(tiny_language.prompts(3)).sums["lm"].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in trained), name
        if name in trained and not name.endswith("k_proj.bias"):  # attention does not see it
            assert parameter.grad.isfinite().all()
            assert parameter.grad.abs().sum() > 0, name


def test_an_unfrozen_fp16_encoder_gives_numbers_where_its_gradients_would_not():
    """Gradients as small as those of one picture in a large batch: fp16 holds none of them."""
    model = build()
    apply_tuning(model, Tuning(rules=FROZEN, vision_blocks=VisionBlocks(last=1)))
    with torch.autocast("cpu", torch.bfloat16):
        loss = GenerationObjective(model.train())(tiny_language.prompts(3)).sums["lm"] / 1e8
    loss.backward()
    grads = [p.grad for p in model.vision.parameters() if p.requires_grad]
    assert all(grad.isfinite().all() for grad in grads)
    assert all(0 < grad.abs().max() < 1e-6 for grad in grads)


def test_more_blocks_than_there_are():
    with pytest.raises(FieldError, match=r"vision_blocks\.last: 4 blocks, but the image encoder has 3"):
        apply_tuning(build(), Tuning(vision_blocks=VisionBlocks(last=4)))
