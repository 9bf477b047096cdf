"""An image encoder in eight bits and a run: which machines it needs, and what it does not share with one in bf16."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vglm_train.checkpoint.bundle.read import open_bundle
from vglm_train.checkpoint.bundle.write import save_bundle
from vglm_train.checkpoint.run_folder import RunFolder
from vglm_train.config.load import load
from vglm_train.data.features.identity import Identity, encoder_fingerprint
from vglm_train.distributed import use_gpu
from vglm_train.errors import UserError
from vglm_train.log.jsonl import METRICS
from vglm_train.model.alignment import build_alignment
from vglm_train.model.vision import build_vision
from vglm_train.prompt.qformer_text import build_text

pytestmark = pytest.mark.usefixtures("alone")

FP8 = ("model.vision.dtype=fp8", "model.vision.width=32", "model.vision.mlp_width=64")


@pytest.mark.skipif(use_gpu(), reason="for a machine that trains on its CPU")
def test_a_machine_without_its_card(config: Path, tmp_path: Path, refused) -> None:
    """Training and --check say the same."""
    line = next(n for n, text in enumerate(config.read_text().splitlines(), 1) if "dtype: " in text)
    own = tmp_path / "own.yaml"
    own.write_text(config.read_text().replace("dtype: fp32", "dtype: fp8"))
    said = refused(own, *FP8[1:], f"run.folder={tmp_path / 'run'}")
    assert said.startswith(f"{own}:{line}: model.vision.dtype: fp8 trains on NVIDIA's Hopper GPUs")
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_change_to_it(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    before, after = (
        load(config, [*FP8[1:], f"run.folder={folder}", f"model.vision.dtype={d}"]) for d in ("bf16", "fp8")
    )
    RunFolder(before).claim(before)
    (folder / METRICS).write_text("{}\n")
    assert RunFolder(before).check(before) is None
    with pytest.raises(UserError, match=r"model\.vision\.dtype: bf16 there, fp8 here"):
        RunFolder(after).check(after)


def test_its_features_are_stored_apart(config: Path, tmp_path: Path) -> None:
    settings = [*FP8, f"data.features={{folder: {tmp_path}}}", "data.image.crop_scale=[1, 1]", "data.image.flip=false"]
    section = load(config, settings)
    torch.manual_seed(0)
    fp8 = build_vision(section.model.vision)
    bf16 = build_vision(replace(section.model.vision, dtype="bf16"))
    bf16.load_state_dict(fp8.state_dict())
    one, other = (Identity.of(section, each, "the same weights") for each in (fp8, bf16))
    assert one.key != other.key
    assert (one.dtype, other.dtype) == ("bfloat16", "bfloat16")
    assert '"fp8": 1' in one.json()
    assert "fp8" not in other.json()
    assert encoder_fingerprint(fp8) != encoder_fingerprint(bf16)


def test_its_bundle_opens_anywhere(config: Path, tmp_path: Path) -> None:
    """With the weights as they were, and the numbers of eight bits."""
    section = load(config, FP8)
    text = build_text(section.model.text, section.data.languages)
    torch.manual_seed(0)
    model = build_alignment(section.model, text.vocabulary, section.data.image.mean, section.data.image.std)
    save_bundle(tmp_path / "bundle", section, model, text, {})
    found = open_bundle(tmp_path / "bundle", torch.device("cpu"))
    assert found.config.model.vision.dtype == "fp8"
    assert found.model.vision.fp8 == model.vision.fp8
    assert all(torch.equal(value, found.model.state_dict()[name]) for name, value in model.state_dict().items())
    size = section.model.vision.image_size
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    assert torch.equal(found.model.encode_image(pixels), model.encode_image(pixels))
