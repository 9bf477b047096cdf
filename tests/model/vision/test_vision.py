"""Frozen image encoders: shapes, dtypes, what they output, and that they stay frozen."""

import json
from dataclasses import replace

import pytest
import torch

from vglm_train.config.model import Vision
from vglm_train.errors import UserError
from vglm_train.model.vision import build_vision
from vglm_train.model.vision.eva import EvaVit

SMALL = Vision(image_size=32, patch=8, width=32, depth=2, heads=2, mlp_width=64, dtype="fp32")
FAMILIES = ("eva", "clip", "siglip")


def pixels(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("family", FAMILIES)
def test_shape_and_tokens(family):
    vision = build_vision(replace(SMALL, family=family))
    assert vision.num_patches == (16 if family == "siglip" else 17)
    assert vision(pixels()).shape == (2, vision.num_patches, 32)


@pytest.mark.parametrize("family", FAMILIES)
def test_stays_frozen_and_in_eval_mode(family):
    vision = build_vision(replace(SMALL, family=family))
    torch.nn.ModuleList([vision]).train()
    assert not any(module.training for module in vision.modules())
    assert not any(parameter.requires_grad for parameter in vision.parameters())
    assert not vision(pixels().requires_grad_()).requires_grad


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_keeps_its_own_dtype_whatever_surrounds_it(family, dtype):
    vision = build_vision(replace(SMALL, family=family, dtype=dtype))
    expected = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    alone = vision(pixels())
    with torch.autocast("cpu", torch.float16 if dtype == "bf16" else torch.bfloat16):
        inside = vision(pixels())
    assert alone.dtype == inside.dtype == expected
    assert torch.equal(alone, inside)
    assert {parameter.dtype for parameter in vision.parameters()} == {expected}


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_output_is_the_hidden_state_after_the_blocks_kept(family):
    from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    config_class, model_class = {
        "clip": (CLIPVisionConfig, CLIPVisionModel),
        "siglip": (SiglipVisionConfig, SiglipVisionModel),
    }[family]
    torch.manual_seed(0)
    oracle = model_class(config_class(**shape, image_size=32, patch_size=8)).eval()
    ours = build_vision(replace(SMALL, family=family))
    weights = oracle.state_dict()
    ours.encoder.tower.load_state_dict({name: weights[name] for name in ours.encoder.tower.state_dict()})
    expected = oracle(pixels(), output_hidden_states=True).hidden_states[2]
    assert torch.allclose(ours(pixels()), expected, atol=1e-5)


def test_bias_on_keys_changes_nothing():
    """Why a checkpoint may leave it out: it adds the same to all scores of a row."""
    vision = build_vision(SMALL)
    before = vision(pixels())
    for block in vision.encoder.blocks:
        block.attention.qkv.bias[32:64] = torch.randn(32)
    assert torch.allclose(vision(pixels()), before, atol=1e-5)


def write_config(folder, **numbers):
    vision = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "intermediate_size": 64}
    vision |= {"num_attention_heads": 2, "num_hidden_layers": 2, "hidden_act": "gelu", **numbers}
    (folder / "config.json").write_text(json.dumps({"vision_config": vision}))


def test_activation_is_read_from_the_folder(tmp_path):
    write_config(tmp_path)
    vision = build_vision(replace(SMALL, family="clip", weights=str(tmp_path)))
    assert vision.encoder.tower.config.hidden_act == "gelu"
    assert build_vision(replace(SMALL, family="clip")).encoder.tower.config.hidden_act == "quick_gelu"


@pytest.mark.parametrize(
    ("ours", "published", "words"),
    [
        ({"width": 64}, {}, ["model.vision.width", "64", "hidden_size 32", "model.vision.width=32"]),
        ({}, {"patch_size": 16}, ["model.vision.patch", "patch_size 16"]),
        ({"depth": 3}, {}, ["model.vision.depth is 3", "only 2 blocks"]),
    ],
)
def test_numbers_that_are_not_those_of_the_folder(tmp_path, ours, published, words):
    write_config(tmp_path, **published)
    with pytest.raises(UserError) as error:
        build_vision(replace(SMALL, family="clip", weights=str(tmp_path), **ours))
    assert all(word in str(error.value) for word in words), error.value


def test_folder_without_config(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"config\.json"):
        build_vision(replace(SMALL, family="siglip", weights=str(tmp_path)))


@torch.no_grad()
def test_a_block_alone_is_the_block_within_the_encoder():
    """The encoder hands each block's sum on in two parts, which the next block adds."""
    torch.manual_seed(0)
    encoder = EvaVit(Vision(image_size=28, patch=14, width=32, depth=3, heads=2, mlp_width=64)).double()
    pixels = torch.randn(2, 3, 28, 28, dtype=torch.float64)
    x = encoder.stem(pixels)
    for block in encoder.blocks:
        x = x + block.attention(block.norm1(x))
        x = x + block.mlp.down(torch.nn.functional.gelu(block.mlp.up(block.norm2(x))))
    torch.testing.assert_close(encoder(pixels), x, rtol=1e-12, atol=1e-12)
    y = encoder.stem(pixels)
    for block in encoder.blocks:
        y = encoder.step(block, y)
    torch.testing.assert_close(y, x, rtol=1e-12, atol=1e-12)
