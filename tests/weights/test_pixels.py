"""What encoders' own image processors do to a picture: transformers' classes, and ours, on the same files."""

import io
import json
import random
from pathlib import Path
from typing import Any

import made_shards
import numpy as np
import pytest
import torch
from PIL import Image

from vglm_train.config.data import Image as Section
from vglm_train.errors import UserError
from vglm_train.image import crop_pixels, whole_pixels
from vglm_train.weights.pixels import CLASSES, Pixels, read_processor

# class of transformers, and how its file may differ from what the class has by default
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViT", {}),
    "deit": ("DeiT", {}),
    "beit": ("Beit", {"do_center_crop": True, "size": {"height": 256, "width": 256}}),
    "dinov2": ("Bit", {"size": {"shortest_edge": 256}}),
    "rad-dino": ("Bit", {"size": {"shortest_edge": 518}, "crop_size": {"height": 518, "width": 518},
                         "image_mean": [0.5307] * 3, "image_std": [0.2583] * 3}),
    "clip": ("CLIP", {}),
    "chinese-clip": ("ChineseCLIP", {}),
    "siglip 2": ("Siglip", {"size": {"height": 384, "width": 384}, "resample": 2}),
    "convnext small": ("ConvNext", {"size": {"shortest_edge": 224}}),
    "convnext large": ("ConvNext", {}),
}  # fmt: skip
SIDES = ((300, 200), (180, 410), (128, 128), (40, 130))


def processor(name: str) -> Any:
    import transformers

    kind, changes = PUBLISHED[name]
    return getattr(transformers, f"{kind}ImageProcessorPil")(**changes)


def section(pixels: Pixels) -> Section:
    return Section(
        mean=pixels.mean, std=pixels.std, squeeze=pixels.squeeze, resize=pixels.resize, resample=pixels.resample
    )


def written(folder: Path, said: dict[str, Any]) -> Path:
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize(("decoder", "levels"), [("pillow", 0), ("turbo", 3)])  # of 255; libjpeg-turbo and torch round
def test_pixels_are_those_of_transformers(tmp_path, name, decoder, levels):
    theirs = processor(name)
    theirs.save_pretrained(tmp_path)
    pixels = read_processor(tmp_path)
    mean, std = (torch.tensor(values)[:, None, None] for values in (pixels.mean, pixels.std))
    for number, side in enumerate(SIDES):
        data = made_shards.jpeg(number, side)
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        expected = torch.as_tensor(np.array(theirs(picture)["pixel_values"][0])) * std + mean
        found = whole_pixels(data, pixels.size, decoder, section(pixels))
        assert found.shape == expected.shape == (3, pixels.size, pixels.size)
        assert (found - 255 * expected).abs().max() <= levels + 0.01, side


def test_defaults_are_those_of_the_classes(tmp_path):
    """An old file may name its class alone."""
    import transformers

    for stem in CLASSES:
        kind = getattr(transformers, f"{stem}ImageProcessorPil", None)
        if stem == "DINOv3ViT":  # it needs torchvision
            continue
        kind().save_pretrained(tmp_path)
        whole = read_processor(tmp_path)
        for ending in ("ImageProcessor", "ImageProcessorFast", "FeatureExtractor"):
            key = "feature_extractor_type" if ending == "FeatureExtractor" else "image_processor_type"
            assert read_processor(written(tmp_path, {key: stem + ending})) == whole, stem


def test_dinov3(tmp_path):
    found = read_processor(written(tmp_path, {"image_processor_type": "DINOv3ViTImageProcessorFast"}))
    assert (found.size, found.squeeze, found.resize, found.resample) == (224, True, None, "bilinear")
    assert found.mean == (0.485, 0.456, 0.406)


def test_sizes_as_numbers_and_within_processor_config(tmp_path):
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 336, "crop_size": 336, "do_center_crop": True}
    assert (read_processor(written(tmp_path, old)).size, read_processor(tmp_path).squeeze) == (336, False)
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": old}))
    assert read_processor(tmp_path).size == 336


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"image_processor_type": "Siglip2ImageProcessor"}, "its class is Siglip2ImageProcessor"),
        ({"do_pad": True}, "do_pad is true"),
        ({"do_resize": False}, "do_resize is false"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order is true"),
        ({"rescale_factor": 1.0}, "rescale_factor is 1.0, not 1/255"),
        ({"rescale_offset": True}, "rescale_offset is true"),
        ({"resample": 1}, "it resizes by lanczos"),
        ({"do_center_crop": False}, "it leaves a picture oblong"),
        ({"size": {"height": 224, "width": 448}}, "which are not square"),
        ({"size": {"shortest_edge": 224, "longest_edge": 448}}, "which are not square"),
        ({"size": {"longest_edge": 448}}, "describes pixels that are not made here: size has longest_edge alone"),
        ({"crop_size": {"height": 512, "width": 512}}, "it adds a border: crop_size 512 is more than size 224"),
    ],
)
def test_what_is_not_done_here_is_refused(tmp_path, said, words):
    written(tmp_path, {"image_processor_type": "BitImageProcessor", **said})
    with pytest.raises(UserError) as error:
        read_processor(tmp_path)
    assert words in str(error.value)
    assert str(tmp_path / "preprocessor_config.json") in str(error.value)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"size": "224px"}, 'size is "224px", and should be a number'),
        ({"size": {"shortest_edge": "224px"}}, 'size.shortest_edge is "224px", and should be a number'),
        ({"size": -224}, "size is -224, and should be a whole number from 1"),
        ({"size": 0}, "size is 0, and should be a whole number from 1"),
        ({"size": 224.5}, "size is 224.5, and should be a whole number from 1"),
        ({"size": 10**400}, "size is 1000000000"),
        ({"size": True}, "size is true, and should be a number"),
        ({"size": {"height": 224, "width": None}}, 'size is {"height": 224, "width": null}, and should be a number of'),
        ({"size": {}}, 'size is {}, and should be a number of pixels, {"height": 224, "width": 224} or'),
        ({"size": []}, "size is [], and should be a number of pixels"),
        ({"size": [224]}, "size is [224], and should be a number of pixels"),
        ({"size": [[224], [224]]}, "size is [224], and should be a number"),
        ({"crop_size": {"height": "a", "width": "a"}}, 'crop_size.height is "a", and should be a number'),
        ({"resample": "bicubic"}, 'resample is "bicubic", and should be a number'),
        ({"resample": float("nan")}, "resample is NaN, and should be a number"),
        ({"rescale_factor": "1/255"}, 'rescale_factor is "1/255", and should be a number'),
        ({"image_mean": [0.5, None, 0.5]}, "image_mean is null, and should be a number"),
        ({"image_mean": [0.5, 0.5]}, "image_mean is [0.5, 0.5], and should be three numbers, one a colour"),
        ({"image_mean": "0.5"}, 'image_mean is "0.5", and should be a number'),
        ({"image_std": [0.5]}, "image_std is [0.5], and should be three numbers, one a colour"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std is [0.5, 0, 0.5], and should be numbers above 0"),
        ({"do_center_crop": "false"}, 'do_center_crop is "false", and should be true or false'),
        ({"do_normalize": []}, "do_normalize is [], and should be true or false"),
        ({"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0, "size": 224}, "crop_pct is 0.0, and should"),
        ({"image_processor_type": "ConvNextImageProcessor", "crop_pct": 2, "size": 224}, "crop_pct is 2.0, and should"),
        ({"image_processor_type": "ConvNextImageProcessor", "crop_pct": "7/8", "size": 224}, 'crop_pct is "7/8", and'),
    ],
)
def test_what_is_no_value_is_named_with_its_field(tmp_path, said, words):
    written(tmp_path, {"image_processor_type": "BitImageProcessor", **said})
    with pytest.raises(UserError) as error:
        read_processor(tmp_path)
    assert f"{tmp_path / 'preprocessor_config.json'}: {words}" in str(error.value)
    assert "Download this file again, or write there what the encoder was trained with" in str(error.value)


def test_null_stands_for_what_the_class_does(tmp_path):
    bare = {"image_processor_type": "BitImageProcessor"}
    nothing = dict.fromkeys(("size", "crop_size", "resample", "image_mean", "do_normalize", "do_pad", "crop_pct"))
    assert read_processor(written(tmp_path, {**bare, **nothing})) == read_processor(written(tmp_path, bare))


def test_a_folder_without_one(tmp_path):
    with pytest.raises(UserError, match=r"has no preprocessor_config\.json"):
        read_processor(tmp_path)


@pytest.mark.parametrize("decoder", ["pillow", "turbo"])
def test_an_endless_strip_costs_no_more_than_it_has(decoder):
    """By the processor's way it would first be 1000 times as wide as high."""
    out = io.BytesIO()
    Image.new("RGB", (20_000, 20), (10, 200, 30)).save(out, "PNG")
    fit = Section(squeeze=False, resize=40)
    assert whole_pixels(out.getvalue(), 32, decoder, fit).flatten(1).float().mean(1).tolist() == [10, 200, 30]


@pytest.mark.parametrize("decoder", ["pillow", "turbo"])
def test_training_without_crops_sees_what_evaluation_sees(decoder):
    data, fit = made_shards.jpeg(5, (300, 200)), Section(squeeze=False, resize=80, resample="bilinear")
    whole = whole_pixels(data, 64, decoder, fit)
    assert torch.equal(crop_pixels(data, 64, (1.0, 1.0), False, random.Random(0), decoder, fit), whole)
    assert not torch.equal(whole_pixels(data, 64, decoder), whole)
