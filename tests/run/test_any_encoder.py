"""Whole runs behind an encoder of family auto: DINOv2 with registers, at another size, on the centres of pictures."""

import shutil
from pathlib import Path

import made_encoders
import pytest
import torch
import yaml

from run import runs
from train import main
from vglm_train.checkpoint.bundle.read import open_bundle
from vglm_train.checkpoint.convert.commands import inspect
from vglm_train.config.load import load
from vglm_train.errors import UserError

pytestmark = pytest.mark.usefixtures("alone")

STEPS = 6
QUICK = "dinov2_with_registers"  # published at 32 pixels
KINDS = [kind if kind == QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in made_encoders.SHAPES]


def write_run(config: Path, tmp_path: Path, kind: str) -> Path:
    """A run whose configuration says nothing about the encoder but where it is, and that it sees larger pictures."""
    published = 64 if "num_hidden_layers" not in made_encoders.SHAPES[kind] else 32
    sizes = {"size": {"shortest_edge": published * 5 // 4}, "crop_size": {"height": published, "width": published}}
    folder = made_encoders.write(tmp_path / "encoder", kind, made_encoders.PROCESSOR | sizes | {"resample": 2})
    size = published if kind in made_encoders.FIXED else published * 3 // 2
    document = yaml.safe_load(config.read_text())
    document["model"]["vision"] = {"family": "auto", "weights": str(folder), "image_size": size, "dtype": "fp32"}
    document["run"]["length"] = {"steps": STEPS}
    document["checkpoint"] = {"every": 3}
    document["data"]["workers"] = 0
    document["evaluate"] = {"every": STEPS}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def auto(config: Path, tmp_path: Path) -> Path:
    return write_run(config, tmp_path, QUICK)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_continues_exactly_and_its_bundle_opens_elsewhere(config: Path, tmp_path: Path, kind: str) -> None:
    auto = write_run(config, tmp_path, kind)
    size = load(auto).model.vision.image_size
    straight, parted = tmp_path / "straight", tmp_path / "parted"
    assert main([str(auto), f"run.folder={straight}"]) == 0
    shutil.copytree(straight, parted)
    for name in ("bundle", "metrics.jsonl", "checkpoints/step-00000006"):
        part = parted / name
        shutil.rmtree(part) if part.is_dir() else part.unlink()
    (parted / "checkpoints" / "latest").write_text("step-00000003")
    assert main([str(auto), f"run.folder={parted}"]) == 0
    assert runs.losses(parted) == [row for row in runs.losses(straight) if row[0] > 3]
    weights = [(folder / "bundle" / "trained.safetensors").read_bytes() for folder in (straight, parted)]
    assert weights[0] == weights[1]
    pictures = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    expected = open_bundle(straight / "bundle", torch.device("cpu")).model.encode_image(pictures)
    shutil.rmtree(tmp_path / "encoder")
    moved = Path(shutil.move(straight / "bundle", tmp_path / "elsewhere"))
    bundle = open_bundle(moved, torch.device("cpu"))
    assert torch.equal(bundle.model.encode_image(pictures), expected)
    image = bundle.config.data.image
    assert (image.mean[0], image.squeeze, image.resize, image.resample) == (0.5307, False, size * 5 // 4, "bilinear")


def test_a_large_encoder_is_named_and_may_move(auto: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("vglm_train.checkpoint.bundle.towers.SMALL", 1000)
    assert main([str(auto), f"run.folder={tmp_path / 'run'}", "evaluate.every=null", "data.validation=[]"]) == 0
    bundle, device = tmp_path / "run" / "bundle", torch.device("cpu")
    assert not (bundle / "vision").exists()
    assert (
        inspect(bundle)[-1] == "  can become: no other format, which have no place for an image encoder of family auto"
    )
    moved = shutil.move(tmp_path / "encoder", tmp_path / "moved")
    with pytest.raises(UserError, match="give their path with --vision-weights"):
        open_bundle(bundle, device)
    open_bundle(bundle, device, vision_weights=str(moved))
    (tmp_path / "moved" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is not the vision model this bundle was trained with"):
        open_bundle(bundle, device, vision_weights=str(moved))


def test_a_published_size_of_no_whole_patches_is_told(auto: Path, tmp_path: Path, capsys) -> None:
    odd = {"size": {"shortest_edge": 36}, "crop_size": {"height": 36, "width": 36}}
    folder = made_encoders.write(tmp_path / "odd", "dinov2", made_encoders.PROCESSOR | odd, image_size=36)
    encoder = f"model.vision={{family: auto, weights: {folder}, dtype: fp32}}"
    assert main([str(auto), encoder, f"run.folder={tmp_path / 'run'}", "--check"]) == 0
    assert "image encoder: 36 pixels are not whole patches of 8. It was published so" in capsys.readouterr().out


def test_a_bundle_that_lost_its_encoder_says_so(auto: Path, tmp_path: Path, capsys) -> None:
    assert main([str(auto), f"run.folder={tmp_path / 'run'}", "evaluate.every=null", "data.validation=[]"]) == 0
    shutil.rmtree(tmp_path / "run" / "bundle" / "vision")
    shutil.move(tmp_path / "encoder", tmp_path / "moved")
    with pytest.raises(UserError, match=r"its vision model, is not there\. Copy the whole bundle again"):
        open_bundle(tmp_path / "run" / "bundle", torch.device("cpu"))
    other = str(tmp_path / "moved")
    with pytest.raises(UserError, match=rf"is not there, and {other} cannot stand for it: .* Copy the whole bundle"):
        open_bundle(tmp_path / "run" / "bundle", torch.device("cpu"), vision_weights=other)
    assert main([str(auto), f"run.folder={tmp_path / 'run'}", f"model.vision.weights={tmp_path / 'moved'}"]) == 2
    assert "Weights that only moved: make a link to them at the old path" in capsys.readouterr().err


def test_stored_features_and_what_check_says(auto: Path, tmp_path: Path, capsys) -> None:
    whole = ("data.image.crop_scale=[1, 1]", "data.image.flip=false", "model.qformer.dropout=0", "optim.eps=1e-4")
    stored = f"data.features={{folder: {tmp_path / 'features'}}}"
    assert main([str(auto), *whole, stored, f"run.folder={tmp_path / 'stored'}", "--check"]) == 0
    said = capsys.readouterr().out
    assert "features: up to 346.9 KiB of 100 pictures x 1 views" in said  # 37 tokens of 24 channels in fp32
    assert "image_size: 48" in said
    assert main([str(auto), *whole, f"run.folder={tmp_path / 'plain'}"]) == 0
    assert main([str(auto), *whole, stored, f"run.folder={tmp_path / 'stored'}"]) == 0
    for (step, name, a), (_, _, b) in zip(runs.losses(tmp_path / "plain"), runs.losses(tmp_path / "stored")):
        assert b == pytest.approx(a, rel=1e-4, abs=1e-4), (step, name)
    (store,) = (tmp_path / "features").glob("*/store.json")
    assert '"squeeze": false' in store.read_text()
