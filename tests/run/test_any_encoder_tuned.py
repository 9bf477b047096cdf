"""Encoders of family auto beyond stage one: before a language model, with last blocks that train, merged, talked to."""

import shutil
from pathlib import Path

import made_encoders
import made_shards
import made_tables
import numpy as np
import pytest
import torch
import yaml

import vglm_train
from run import speaking
from train import main
from vglm_train import stages
from vglm_train.checkpoint.__main__ import main as checkpoint
from vglm_train.checkpoint.bundle.read import open_bundle
from vglm_train.config.load import load
from vglm_train.image import whole_pixels

pytestmark = pytest.mark.usefixtures("alone")

CPU = torch.device("cpu")
KINDS = {"dinov3_vit": 32, "convnextv2": 64}  # published size of the small ones


def auto(config: Path, folder: Path, kind: str) -> Path:
    """The configuration, with such an encoder in `folder`."""
    size = KINDS[kind]
    processor = made_encoders.PROCESSOR | {
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
    }
    document = yaml.safe_load(config.read_text())
    made = made_encoders.write(folder / kind, kind, processor)
    document["model"]["vision"] = {"family": "auto", "weights": str(made), "dtype": "fp32"}
    path = folder / "auto.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def begun(path: Path, folder: Path) -> Path:
    """The bundle of a run that has only begun."""
    stage = stages.build(load(path))
    torch.manual_seed(2)
    model = stage.model()
    stage.load(model)
    stage.save(folder, model, {"run": "made"})
    return folder


@pytest.fixture(params=KINDS)
def base(request, config: Path, tmp_path: Path) -> Path:
    """A bundle of stage two; the encoder's own folder is gone."""
    path = auto(config, tmp_path, request.param)
    aligned = begun(path, tmp_path / "aligned")
    bundle = begun(speaking.write_run(path, aligned, tmp_path, "causal"), tmp_path / "base")
    shutil.rmtree(tmp_path / request.param)
    return bundle


def finetune(base: Path, folder: Path, *overrides: str) -> Path:
    rows = made_tables.visualglm(made_tables.pictures(folder, 12))
    made_tables.write_json(folder / "table.json", rows)
    document = {
        "run": {"name": "own", "stage": "finetune", "length": {"steps": 3}},
        "model": {"bundle": str(base)},
        "data": {
            "train": [{"name": "own", "table": str(folder / "table.json")}],
            "holdout": {"by": "image", "share": 0.2},
            "languages": ["en"],
            "global_batch": 4,
            "workers": 0,
        },
        "optim": {"lr": 1e-3, "warmup": {"steps": 1}},
        "engine": {"precision": "fp32", "backend": "gloo"},
        "evaluate": {"task": "vqa", "decoding": {"max_new": 4}},
        "tuning": {"vision_blocks": {"last": 1}},
    }
    path = folder / "finetune.yaml"
    path.write_text(yaml.safe_dump(document))
    assert main([str(path), f"run.folder={folder / 'run'}", *overrides]) == 0
    return folder / "run" / "bundle"


def test_last_blocks_train_are_merged_and_leave(base: Path, tmp_path: Path, capsys) -> None:
    bundle = finetune(base, tmp_path)
    trained = yaml.safe_load((bundle / "config.yaml").read_text())
    assert trained["data"]["image"]["mean"] == [0.5307] * 3, "taken over with the bundle"
    merged = tmp_path / "merged"
    assert checkpoint(["merge", str(base), "--adapter", str(bundle), "--out", str(merged)]) == 0
    pixels = torch.randint(0, 256, (1, 3, *[trained["model"]["vision"]["image_size"]] * 2), dtype=torch.uint8)
    features = [open_bundle(folder, CPU).model.encode_image(pixels).float() for folder in (base, bundle, merged)]
    assert not torch.equal(features[0], features[1])
    torch.testing.assert_close(features[1], features[2], rtol=1e-5, atol=1e-5)
    shutil.rmtree(base)
    moved = Path(shutil.move(merged, tmp_path / "elsewhere"))
    assert torch.equal(open_bundle(moved, CPU).model.encode_image(pixels).float(), features[2])
    capsys.readouterr()
    assert checkpoint(["inspect", str(moved)]) == 0
    assert "vision: tower.embeddings" in capsys.readouterr().out
    assert checkpoint(["export", str(moved), "--format", "hf-blip2", "--out", str(tmp_path / "out")]) == 2
    assert "transformers' BLIP-2 has EVA encoders" in capsys.readouterr().err


def test_chat_sees_the_processors_pixels(base: Path, tmp_path: Path) -> None:
    data = made_shards.jpeg(3, (200, 120))
    image = load(base / "config.yaml").data.image
    size = load(base / "config.yaml").model.vision.image_size
    with vglm_train.load(base, device="cpu") as model:
        seen = model.read_pixels(data)
    assert torch.equal(seen, whole_pixels(data, size, image.decoder, image))
    assert not torch.equal(seen, whole_pixels(data, size, image.decoder))
    assert np.isclose(image.std[0], 0.2583)


def test_an_encoder_becomes_the_bundle_of_a_run(config: Path, tmp_path: Path, capsys) -> None:
    """`import` with the configuration of the run that it is for."""
    path = auto(config, tmp_path, "dinov3_vit")
    out = tmp_path / "imported"
    assert checkpoint(["import", str(tmp_path / "dinov3_vit"), "--config", str(path), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "a Hugging Face image encoder (hf-vision)" in said
    assert f"vision stays where it is: {tmp_path / 'dinov3_vit'}" in said
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    stage = stages.build(load(path))
    model = stage.model()
    stage.load(model)
    assert torch.equal(open_bundle(out, CPU).model.encode_image(pixels), model.eval().encode_image(pixels))
    assert checkpoint(["import", str(tmp_path / "dinov3_vit"), "--config", str(path), "--out", str(out), "--force",
                       "--image-size", "64"]) == 2  # fmt: skip
    assert "--image-size" in capsys.readouterr().err
