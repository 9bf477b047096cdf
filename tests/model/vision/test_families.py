"""Image encoders of family auto: what transformers itself computes from the same folder, and what of it is taken."""

import inspect
from dataclasses import asdict
from pathlib import Path

import made_encoders
import pytest
import torch
from torch import Tensor, nn

from vglm_train.checkpoint.load.pretrained import load_vision
from vglm_train.config.model import Vision
from vglm_train.data.features.identity import encoder_fingerprint
from vglm_train.errors import UserError
from vglm_train.model.flops import image_tokens, vision_flops
from vglm_train.model.vision import VisionEncoder, build_vision, measure
from vglm_train.model.vision.hf import BLOCKS
from vglm_train.weights.encoders import STAGED, TAKEN, read_shape, why_refused

KINDS = sorted(TAKEN)


def section(folder: Path, **changes) -> Vision:
    return Vision(family="auto", weights=str(folder), **(asdict(read_shape(folder)) | {"dtype": "fp32"} | changes))


def loaded(config: Vision) -> VisionEncoder:
    encoder = build_vision(config)
    load_vision(encoder.encoder, config)
    return encoder


def pixels(size: int, seed: int = 0) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def last_block(folder: Path, batch: Tensor) -> Tensor:
    """What the last block of transformers' model gives, with every token that it has."""
    model, found = made_encoders.reference(folder), {}
    stacks = (dict(model.named_modules()).get(path) for path in BLOCKS)
    blocks = next(each for each in stacks if isinstance(each, nn.ModuleList))
    blocks[-1].register_forward_hook(lambda block, args, output: found.update(output=output))
    takes = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    with torch.no_grad():
        model(pixel_values=batch, **({"interpolate_pos_encoding": True} if takes else {}))
    output = found["output"][0] if isinstance(found["output"], tuple) else found["output"]
    return output.flatten(2).transpose(1, 2) if output.ndim == 4 else output


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {kind: made_encoders.write(root / kind, kind) for kind in KINDS}


@pytest.mark.parametrize("larger", [1, 1.5])
@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_transformers(folders, kind, larger):
    folder = folders[kind]
    config = section(folder, image_size=int(read_shape(folder).image_size * larger))
    if larger > 1 and kind in made_encoders.FIXED:
        with pytest.raises(UserError, match=r"model\.vision\.image_size: this encoder does not see pictures of 48"):
            build_vision(config)
        return
    vision, batch = loaded(config), pixels(config.image_size)
    expected = last_block(folder, batch)
    registers = 4 if kind in ("dinov2_with_registers", "dinov3_vit") else expected.shape[1] - vision.num_patches
    expected = torch.cat((expected[:, :1], expected[:, 1 + registers :]), 1)
    found = vision(batch)
    assert found.shape == (2, vision.num_patches, vision.width) == (2, image_tokens(config), config.width)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        ("dinov2_with_registers", 17),  # the class token and 4 x 4 patches, of 21
        ("dinov3_vit", 17),
        ("deit", 18),  # two class tokens
        ("pixio", 24),  # eight
        ("siglip_vision_model", 16),
        ("convnextv2", 4),  # 64 pixels in cells of 32
        ("dinov3_convnext", 4),  # without the mean of all
        ("swin", 16),
    ],
)
def test_which_tokens_are_taken(folders, kind, kept):
    assert build_vision(section(folders[kind])).num_patches == kept


@pytest.mark.parametrize("kind", KINDS)
def test_last_blocks_train_and_compute_the_same(folders, kind):
    vision = loaded(section(folders[kind]))
    batch = pixels(vision.encoder.config.image_size)
    before = vision(batch)
    trained = vision.train_last(1)
    after = vision(batch)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    (after * pixels(1)[0, 0, 0, 0]).square().sum().backward()
    own = {id(parameter) for block in trained for parameter in block.parameters()}
    assert {id(parameter) for parameter in vision.parameters() if parameter.grad is not None} == own


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_that_of_transformers(folders, kind):
    """Rotary frequencies stay fp32 there too: in bf16 they would turn far patches by wrong angles."""
    config = section(folders[kind], dtype="bf16")
    vision, model = loaded(config), made_encoders.reference(folders[kind], torch.bfloat16)
    assert {parameter.dtype for parameter in vision.parameters()} == {torch.bfloat16}
    expected = {name: table.dtype for name, table in model.named_buffers()}
    assert {name: table.dtype for name, table in vision.encoder.tower.named_buffers()} == expected
    assert vision(pixels(config.image_size)).dtype == torch.bfloat16
    trained = vision.train_last(2)  # in fp32, after blocks in bf16
    output = vision(pixels(config.image_size))
    output.sum().backward()
    assert output.dtype == torch.float32
    grads = [parameter.grad for block in trained for parameter in block.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("kind", ["dinov3_vit", "convnextv2"])
def test_trained_blocks_run_under_autocast_and_the_rest_does_not(folders, kind):
    vision = build_vision(section(folders[kind], dtype="bf16"))
    (block,) = vision.train_last(1)
    seen = {}
    block.register_forward_hook(
        lambda module, args, output: seen.update(dtype=args[0].dtype, on=torch.is_autocast_enabled("cpu"))
    )
    vision.encoder.blocks[0].register_forward_hook(
        lambda module, args, output: seen.update(below=torch.is_autocast_enabled("cpu"))
    )
    with torch.autocast("cpu", torch.bfloat16):
        vision(pixels(vision.encoder.config.image_size)).sum().backward()
        assert torch.is_autocast_enabled("cpu")
    assert seen == {"dtype": torch.float32, "on": True, "below": False}
    assert not torch.is_autocast_enabled("cpu")


def test_stored_features_know_what_no_weight_shows(tmp_path):
    """Two encoders of the same weights, whose positions turn at other rates."""
    made = [made_encoders.write(tmp_path / str(theta), "dinov3_vit", rope_theta=theta) for theta in (100.0, 50.0)]
    one, other, again = (encoder_fingerprint(loaded(section(made[number]))) for number in (0, 1, 0))
    assert one == again != other


def test_blocks_beyond_the_depth_are_left_out(folders):
    config = section(folders["dinov2"], depth=2)
    batch = pixels(32)
    with torch.no_grad():
        states = made_encoders.reference(folders["dinov2"])(batch, output_hidden_states=True).hidden_states
    torch.testing.assert_close(loaded(config)(batch), states[2], rtol=1e-5, atol=1e-5)


def test_clip_is_the_same_by_its_own_family(folders):
    """One encoder, whichever name it has in the configuration: also in its names of weights and its arithmetic."""
    own = Vision(
        family="clip", image_size=32, patch=8, width=24, depth=3, heads=2, mlp_width=48, dtype="fp32",
        weights=str(folders["clip_vision_model"]),
    )  # fmt: skip
    auto = section(folders["clip_vision_model"])
    one, other = loaded(own), loaded(auto)
    assert one.state_dict().keys() == other.state_dict().keys()
    assert torch.equal(one(pixels(32)), other(pixels(32)))
    assert vision_flops(auto) == vision_flops(own)
    assert sum(measure(auto).blocks) < measure(auto).flops


@pytest.mark.parametrize("kind", ["dinov2", "convnextv2", "swin", "hiera"])
def test_the_shape_that_is_read(folders, kind):
    shape = read_shape(folders[kind])
    assert (kind in STAGED) == (shape.depth == len(made_encoders.SHAPES[kind].get("depths", ())))
    found = {
        "dinov2": (8, 24, 2, 96),
        "convnextv2": (32, 32, 1, 128),
        "swin": (16, 32, 2, 128),
        "hiera": (32, 64, 4, 256),
    }
    assert (shape.patch, shape.width, shape.heads, shape.mlp_width) == found[kind]


def test_every_family_that_transformers_has_is_taken_or_refused_with_a_reason():
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_MAPPING_NAMES

    assert set(TAKEN) == set(made_encoders.SHAPES)
    for kind in set(MODEL_FOR_IMAGE_MAPPING_NAMES) - set(TAKEN):
        assert len(why_refused(kind)) > 10
