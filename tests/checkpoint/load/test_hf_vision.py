"""Weights of family auto: every name is the published class's, none is missing, and none is left random."""

from dataclasses import asdict
from pathlib import Path

import made_encoders
import pytest
import torch
from safetensors.torch import load_file, save_file

from vglm_train.checkpoint.convert.towers import vision_tensors
from vglm_train.checkpoint.load.pretrained import load_vision
from vglm_train.config.model import Vision
from vglm_train.errors import UserError
from vglm_train.model.vision import build_vision
from vglm_train.weights.encoders import read_shape

PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def section(folder: Path, **changes) -> Vision:
    return Vision(family="auto", weights=str(folder), **(asdict(read_shape(folder)) | {"dtype": "fp32"} | changes))


def loaded(folder: Path, **changes):
    config = section(folder, **changes)
    vision = build_vision(config)
    load_vision(vision.encoder, config)
    return vision


def refused(folder: Path, **changes) -> str:
    with pytest.raises(UserError) as error:
        loaded(folder, **changes)
    return str(error.value)


def changed(folder: Path, change) -> Path:
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, {"format": "pt"})
    return folder


def whole_models() -> dict[str, tuple[str, dict]]:
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    both = {"vision_config": made_encoders.PLAIN, "text_config": {**text, "vocab_size": 20}}
    return {
        "ViTForImageClassification": ("ViTConfig", made_encoders.PLAIN),
        "ViTForMaskedImageModeling": ("ViTConfig", made_encoders.PLAIN),
        "Dinov2ForImageClassification": ("Dinov2Config", made_encoders.PLAIN),
        "Dinov2Backbone": ("Dinov2Config", made_encoders.PLAIN),
        "ConvNextV2ForImageClassification": ("ConvNextV2Config", made_encoders.STAGES),
        "SwinForImageClassification": ("SwinConfig", made_encoders.WINDOWS),
        "BeitForImageClassification": ("BeitConfig", made_encoders.PLAIN),
        "SiglipModel": ("SiglipConfig", both),
        "CLIPModel": ("CLIPConfig", both),
        "ChineseCLIPModel": ("ChineseCLIPConfig", both),
        "Aimv2Model": ("Aimv2Config", both),
        "CLIPVisionModelWithProjection": ("CLIPVisionConfig", made_encoders.PLAIN),
    }


@pytest.mark.parametrize("name", whole_models())
def test_the_tower_within_a_published_model(tmp_path, name):
    """A classifier's head, a text side, a projection are known, and left out."""
    import transformers

    config, options = whole_models()[name]
    torch.manual_seed(0)
    model = made_encoders.spoilt(getattr(transformers, name)(getattr(transformers, config)(**options)))
    made_encoders.save(model, tmp_path)
    size = options.get("image_size", 32)
    batch = torch.nn.functional.interpolate(PIXELS, (size, size))
    found = loaded(tmp_path)(batch)
    states = getattr(model, "vision_model", model)(batch, output_hidden_states=True, return_dict=True)
    expected = states.hidden_states[-1] if hasattr(states, "hidden_states") else None
    expected = expected if expected is not None else states.vision_model_output.hidden_states[-1]
    expected = expected.flatten(2).transpose(1, 2) if expected.ndim == 4 else expected
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_weight_that_is_missing(tmp_path):
    made_encoders.write(tmp_path)
    changed(tmp_path, lambda weights: weights.pop("encoder.layer.1.norm1.weight"))
    said = refused(tmp_path)
    assert "missing: encoder.layer.1.norm1.weight" in said
    assert str(tmp_path) in said


def test_a_weight_that_nothing_knows(tmp_path):
    made_encoders.write(tmp_path)
    changed(tmp_path, lambda weights: weights.update(strange=torch.ones(1)))
    assert "unexpected: strange" in refused(tmp_path)


def test_a_weight_of_another_shape(tmp_path):
    made_encoders.write(tmp_path)
    name = "encoder.layer.0.mlp.fc1.weight"
    changed(tmp_path, lambda weights: weights.update({name: torch.ones(40, 24)}))
    assert f"{name} is [40, 24], the encoder has [96, 24]" in refused(tmp_path)


def test_a_weight_that_is_no_number(tmp_path):
    made_encoders.write(tmp_path)
    changed(tmp_path, lambda weights: weights["encoder.layer.0.norm1.weight"].fill_(torch.nan))
    assert "encoder.layer.0.norm1.weight" in refused(tmp_path)


def test_numbers_that_are_not_the_folders(tmp_path):
    made_encoders.write(tmp_path)
    assert "model.vision.width is 32, but" in refused(tmp_path, width=32)
    assert "has only 3 blocks" in refused(tmp_path, depth=4)


def test_names_for_conversions_are_the_same(tmp_path):
    made_encoders.write(tmp_path, "dinov3_vit")
    config = section(tmp_path, depth=2)
    tensors = vision_tensors(tmp_path, config)
    state = build_vision(config).encoder.state_dict()
    assert {name: tensor.shape for name, tensor in tensors.items()} == {n: tuple(v.shape) for n, v in state.items()}


def test_another_family_is_told_what_to_set(tmp_path):
    made_encoders.write(tmp_path, "siglip_vision_model")
    with pytest.raises(UserError, match=r"set model\.vision\.family=auto"):
        build_vision(Vision(family="clip", image_size=32, patch=8, width=24, depth=3, heads=2, mlp_width=48,
                            weights=str(tmp_path)))  # fmt: skip
