"""What people get wrong in the configuration: one error says where and what to do, and nothing half-made left."""

from pathlib import Path

import pytest
import yaml

from train import main

RUN = """\
run:
  name: photos
  length: {steps: 100}
model:
  vision: {image_size: 224, patch: 14}
data:
  train:
    - {name: photos, shards: shards/photos}
    - {name: drawings, shards: shards/drawings}
  global_batch: 24
objective:
  itc: {weight: 1}
optim:
  lr: 1e-4
  warmup: {steps: 10}
engine:
  zero: 1
log:
  wandb:
    mode: offline
"""
pytestmark = pytest.mark.usefixtures("alone")


MISTAKES = {
    "unknown section": ("engine:", "engin:", "run.yaml:16: engin: unknown key. Did you mean engine?"),
    "unknown key": ("  lr: 1e-4", "  lrr: 1e-4", "run.yaml:14: optim.lrr: unknown key. Did you mean optim.lr?"),
    "unknown key, third level": (
        "    mode:", "    mod:", "run.yaml:20: log.wandb.mod: unknown key. Did you mean log.wandb.mode?",
    ),
    "duplicate key": (
        "  zero: 1", "  zero: 1\n  zero: 2", "run.yaml:18: engine.zero: given twice, first at run.yaml:17; keep one",
    ),
    "duplicate section": ("log:", "optim:", "run.yaml:18: optim: given twice, first at run.yaml:13; keep one"),
    "tab": ("  zero: 1", "\tzero: 1", "run.yaml:17: a tab in the indentation; YAML wants spaces (two a level)"),
    "wrong type": (
        "global_batch: 24", "global_batch: many",
        "run.yaml:10: data.global_batch: expected a whole number, found the text 'many'",
    ),
    "out of range": (
        "global_batch: 24", "max_damaged: 1.5",
        "run.yaml:10: data.max_damaged: must be a fraction from 0 to 1, found 1.5",
    ),
    "warm-up": (
        "{steps: 10}", "{steps: 101}",
        "run.yaml:15: optim.warmup: a warm-up of 101 steps is longer than the run of 100 steps",
    ),
    "ZeRO 4": ("zero: 1", "zero: 4", "run.yaml:17: engine.zero: "),
    "image size": (
        "image_size: 224", "image_size: 225",
        "run.yaml:5: model.vision.image_size: 225 is not a multiple of patch 14: the picture is cut into whole "
        "patches. Nearest: 224 or 238",
    ),
    "two sources with one name": (
        "drawings, shards", "photos, shards",
        "run.yaml:9: data.train.1: the name 'photos' is already that of entry 0",
    ),
    "Chinese with the English processor": (
        "global_batch: 24", "languages: [en, zh]",
        "run.yaml:10: model.text.processor: blip is for English only",
    ),
    "negative loss weight": (
        "weight: 1", "weight: -1", "run.yaml:12: objective.itc.weight: must not be negative, found -1.0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_in_the_file(refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before, after, message = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    assert RUN.count(before) == 1
    Path("run.yaml").write_text(RUN.replace(before, after))
    said = refused("run.yaml")
    assert said.startswith(message)
    assert "\n" not in said
    assert [p.name for p in tmp_path.iterdir()] == ["run.yaml"], "something was written"


def test_a_batch_that_does_not_divide_is_told(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(config), "--check", "--world", "3"]) == 0
    assert "of 8 rows = 3 ranks x 3 x 1 micro-batches less 1 empty places" in capsys.readouterr().out


def test_a_number_without_a_dot(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(config.read_text().replace("lr: 0.001", "lr: 1e-4"))
    assert main([str(path), "optim.min_lr=1e-6", "--check"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out.split("\n\n")[0])["optim"]
    assert float(shown["lr"]) == 1e-4
    assert float(shown["min_lr"]) == 1e-6
