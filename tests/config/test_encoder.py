"""Family auto in a configuration: what the encoder's folder says is written out, and must not be contradicted."""

import shutil
from pathlib import Path

import made_encoders
import pytest

from vglm_train.config.check import check
from vglm_train.config.load import dump, load
from vglm_train.config.validation import FieldError
from vglm_train.errors import UserError

YAML = """run: {{name: own}}
model:
  vision:
    family: auto
    weights: {folder}
data:
  global_batch: 8
  train: [{{name: a, shards: nowhere}}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made_encoders.write(tmp_path / "encoder")


@pytest.fixture
def path(tmp_path: Path, folder: Path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text(YAML.format(folder=folder))
    return file


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        load(path, overrides)
    return str(error.value)


def test_shape_and_pixels_are_read(path):
    config = load(path)
    vision, image = config.model.vision, config.data.image
    assert (vision.image_size, vision.patch, vision.width, vision.depth, vision.heads, vision.mlp_width) == (
        32, 8, 24, 3, 2, 96,
    )  # fmt: skip
    assert (image.mean, image.std) == ((0.5307,) * 3, (0.2583,) * 3)
    assert (image.squeeze, image.resize, image.resample) == (False, None, "bicubic")


def test_the_size_is_the_processors_not_the_positions(path, folder):
    """DINOv2's positions are for 518 pixels, and it is used at 224."""
    shutil.rmtree(folder)
    made_encoders.write(folder, image_size=64)
    assert load(path).model.vision.image_size == 32


def test_another_size_sees_the_same_part_of_a_picture(path, folder):
    shutil.rmtree(folder)
    made_encoders.write(folder, processor=made_encoders.PROCESSOR | {"size": {"shortest_edge": 40}})
    assert load(path).data.image.resize == 40
    config = load(path, ["model.vision.image_size=64"])
    assert (config.model.vision.image_size, config.data.image.resize) == (64, 80)


def test_a_size_of_no_whole_patches_is_refused_unless_it_was_published(path, folder):
    said = refused(path, "model.vision.image_size=36")
    assert "model.vision.image_size: 36 is not a multiple of 8" in said
    assert "Nearest: 32 or 40; published: 32" in said
    shutil.rmtree(folder)
    odd = {"size": {"shortest_edge": 36}, "crop_size": {"height": 36, "width": 36}}
    made_encoders.write(folder, processor=made_encoders.PROCESSOR | odd, image_size=36)
    assert load(path).model.vision.image_size == 36
    assert load(path, ["model.vision.image_size=40"]).model.vision.image_size == 40
    assert "published: 36" in refused(path, "model.vision.image_size=44")


def test_a_processor_that_is_no_json_is_called_damaged(path, folder):
    (folder / "preprocessor_config.json").write_text('{"size": ')
    assert "preprocessor_config.json is damaged" in refused(path)


def test_the_resolved_configuration_needs_no_folder(path, tmp_path, folder):
    config = load(path, ["data.image.flip=false"])
    (tmp_path / "resolved.yaml").write_text(dump(config))
    assert load(tmp_path / "resolved.yaml") == config
    shutil.rmtree(folder)
    assert load(tmp_path / "resolved.yaml") == config
    said = refused(path)
    assert said.startswith(f"{path}:5: model.vision.weights: {folder} is not on this machine, and family auto reads")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.vision.width=32", "model.vision.width: {folder} says 24; leave the line out"),
        ("model.vision.patch=16", "model.vision.patch: {folder} says 8"),
        ("model.vision.depth=4", "model.vision.depth: {folder} has only 3 blocks"),
        ("data.image.mean=[0.5, 0.5, 0.5]", "data.image.mean: {folder} says [0.5307, 0.5307, 0.5307]"),
        ("data.image.squeeze=true", "data.image.squeeze: {folder} says False"),
    ],
)
def test_what_the_folder_contradicts_is_refused(path, folder, override, words):
    said = refused(path, override)
    assert said.startswith(f"override {override}: ")
    assert words.format(folder=folder) in said


def test_fewer_blocks_are_kept(path, tmp_path):
    assert load(path, ["model.vision.depth=2"]).model.vision.depth == 2
    made_encoders.write(tmp_path / "stages", "convnextv2")
    said = refused(path, f"model.vision.weights={tmp_path / 'stages'}", "model.vision.depth=3")
    assert "model.vision.depth: convnextv2 has 4 stages, which are all kept" in said


def test_neither_weights_nor_config(path):
    assert "neither weights nor config is given" in refused(path, "model.vision.weights=null")


def test_config_alone_gives_the_shape_of_random_weights(path, folder, tmp_path):
    overrides = ["model.vision.weights=null", f"model.vision.config={folder}"]
    assert load(path, overrides).model.vision.width == 24
    absent = [f"model.vision.weights={tmp_path / 'absent'}", f"model.vision.config={folder}"]
    assert load(path, absent).model.vision.width == 24
    said = refused(path, f"model.vision.config={folder}", "model.vision.family=siglip")
    assert "model.vision.config: is for family auto" in said


def test_a_file_in_place_of_a_folder(path, folder):
    file = folder / "model.safetensors"
    assert "is a file, and family auto takes a Hugging Face folder" in refused(path, f"model.vision.weights={file}")


def test_a_folder_without_an_image_processor(path, folder):
    (folder / "preprocessor_config.json").unlink()
    assert "has no preprocessor_config.json: complete the download, or write data.image.mean" in refused(path)
    numbers = ["data.image.mean=[0.5, 0.5, 0.5]", "data.image.std=[0.5, 0.5, 0.5]"]
    assert load(path, numbers).model.vision.image_size == 32


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("vit_mae", "it hides most patches at random"),
        ("resnet", "resnet is none of those that were tried here"),
        ("siglip2_vision_model", "naflex form cuts each picture"),
    ],
)
def test_an_encoder_that_is_not_taken(path, folder, kind, words):
    (folder / "config.json").write_text(f'{{"model_type": "{kind}", "image_size": 32}}')
    said = refused(path)
    assert words in said
    assert "RAD-DINO" in said, "which are taken"


def test_a_square_is_cut_out_of_something_larger(path):
    config = load(path, ["data.image.resize=24", "model.vision.weights=null", *NUMBERS])
    with pytest.raises(FieldError, match=r"data\.image\.resize: 24 is less than model\.vision\.image_size 32"):
        check(config, 1)


NUMBERS = (
    "model.vision.family=eva", "model.vision.image_size=32", "model.vision.patch=8",
)  # fmt: skip
