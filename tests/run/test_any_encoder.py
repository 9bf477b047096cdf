"""Whole runs behind an encoder of family auto: DINOv2 with registers, at another size, cut out of a picture's centre."""

import shutil
from pathlib import Path

import made_encoders
import pytest
import torch
import yaml
from PIL import Image

from run import runs
from train import main
from vglm_train.checkpoint.bundle.read import open_bundle
from vglm_train.config.load import load
from vglm_train.errors import UserError
from vglm_train.evaluate.__main__ import main as evaluate
from vglm_train.image import whole_pixels

pytestmark = pytest.mark.usefixtures("alone")

SIZE = 48  # the encoder was published at 32
STEPS = 6


@pytest.fixture
def auto(config: Path, tmp_path: Path) -> Path:
    """A run whose configuration says nothing about the encoder but where it is, and the size."""
    processor = made_encoders.PROCESSOR | {"size": {"shortest_edge": 40}, "resample": 2}
    folder = made_encoders.write(tmp_path / "encoder", "dinov2_with_registers", processor)
    document = yaml.safe_load(config.read_text())
    document["model"]["vision"] = {"family": "auto", "weights": str(folder), "image_size": SIZE, "dtype": "fp32"}
    document["run"]["length"] = {"steps": STEPS}
    document["checkpoint"] = {"every": 3}
    document["data"]["workers"] = 0
    document["evaluate"] = {"every": STEPS}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_run_resumes_exactly_and_its_bundle_opens_elsewhere(auto: Path, tmp_path: Path, capsys) -> None:
    straight, parted = tmp_path / "straight", tmp_path / "parted"
    assert main([str(auto), f"run.folder={straight}"]) == 0
    assert main([str(auto), f"run.folder={parted}", "run.length={steps: 3}", "optim.warmup={steps: 3}"]) == 0
    shutil.rmtree(parted)
    assert main([str(auto), f"run.folder={parted}"]) == 0
    for folder in (parted / "checkpoints").iterdir():
        if folder.name != "step-00000003" and folder.is_dir() and "3" not in folder.name:
            shutil.rmtree(folder)
    capsys.readouterr()
    pictures = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    before = open_bundle(straight / "bundle", torch.device("cpu"))
    expected = before.model.encode_image(pictures)
    shutil.rmtree(tmp_path / "encoder")
    moved = shutil.move(straight / "bundle", tmp_path / "elsewhere")
    bundle = open_bundle(Path(moved), torch.device("cpu"))
    assert torch.equal(bundle.model.encode_image(pictures), expected)
    assert bundle.config.model.vision.image_size == SIZE
    image = bundle.config.data.image
    assert (image.mean[0], image.squeeze, image.resize, image.resample) == (0.5307, False, 60, "bilinear")
