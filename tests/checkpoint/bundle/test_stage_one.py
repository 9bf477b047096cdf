"""From one stage's bundle into the next: what is kept, dropped and new, and what does not belong together."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from run import runs, speaking
from safetensors.torch import load_file, save_file

from vglm_train import stages
from vglm_train.checkpoint.bundle import towers
from vglm_train.checkpoint.bundle.format import read_trained
from vglm_train.checkpoint.bundle.stage_one import compare, init_from_bundle
from vglm_train.config.load import load
from vglm_train.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_run(tmp_path_factory.mktemp("data")).parent


@pytest.fixture(scope="module")
def aligned(data: Path) -> Path:
    return speaking.write_bundle(data / "run.yaml", data / "aligned")


@pytest.fixture(scope="module")
def config(data: Path, aligned: Path) -> Path:
    return speaking.write_run(data / "run.yaml", aligned, data / "spoken", "causal")


def build(config: Path, *overrides: str) -> tuple[Any, Any]:
    stage = stages.build(load(config, overrides))
    torch.manual_seed(9)
    return stage, stage.model()


def refusal(config: Path, *overrides: str) -> str:
    stage, model = build(config, *overrides)
    with pytest.raises(UserError) as caught:
        stage.load(model)
    with pytest.raises(UserError) as told:
        stage.notes(model)
    assert str(told.value) == str(caught.value), "--check says what training says"
    return str(caught.value)


def test_stage_one_into_stage_two(config: Path, aligned: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, model = build(config)
    before = {  # the language model is not filled yet
        name: value.clone() for name, value in model.state_dict().items() if not name.startswith("language.")
    }
    with caplog.at_level(logging.INFO, "vglm_train"):
        carried = init_from_bundle(model, aligned)
    assert carried == compare(model, aligned)
    assert caplog.messages == carried.lines(aligned)
    theirs, after = read_trained(aligned), model.state_dict()
    assert {*carried.kept, *carried.dropped} == set(theirs)
    assert carried.new == ["projection.bias", "projection.weight"]
    assert all(torch.equal(after[name], theirs[name]) for name in carried.kept)
    assert all(torch.equal(value, after[name]) for name, value in before.items() if name not in carried.kept)
    assert {name.partition(".")[0] for name in carried.kept} == {"vision_norm", "qformer"}
    assert {"qformer.query_tokens", "qformer.blocks.1.query_mlp.up.weight"} <= set(carried.kept)


def test_stage_two_into_stage_two(config: Path, tmp_path: Path) -> None:
    """A run that goes on with other data: everything is kept."""
    stage, model = build(config)
    stage.load(model)
    stage.save(tmp_path / "bundle", model, {})
    other, fresh = build(config, f"model.qformer.weights={tmp_path / 'bundle'}")
    carried = compare(fresh, tmp_path / "bundle")
    assert not carried.dropped
    assert not carried.new
    other.load(fresh)
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("change", ["depth=2", "patch=16", "width=48", "family=clip"])
def test_another_image_encoder(config: Path, aligned: Path, change: str) -> None:
    said = refusal(config, f"model.vision.{change}")
    assert said.startswith(f"model.qformer.weights: {aligned} was trained behind an image encoder of another shape. ")


def test_another_image_encoder_whose_weights_are_given(config: Path, aligned: Path) -> None:
    said = refusal(config, "model.vision.depth=2", f"model.vision.weights={aligned / 'vision.safetensors'}")
    assert "was trained behind an image encoder of another shape" in said


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("queries=6", "qformer.query_tokens is [1, 4, 32], the model has [1, 6, 32]"),
        ("width=48", "qformer.blocks.0.attention.norm.bias is [32], the model has [48]"),
        ("layers=1", "no place for qformer.blocks.1.attention.norm.bias"),
        ("layers=3", "nothing for qformer.blocks.2."),
        ("cross_every=1", "nothing for qformer.blocks.1.cross."),
    ],
)
def test_another_q_former(config: Path, aligned: Path, change: str, part: str) -> None:
    said = refusal(config, f"model.qformer.{change}")
    assert said.startswith(f"model.qformer.weights: {aligned} does not fit the configured model: ")
    assert part.replace("[1, ", "[") in said.replace("[1, ", "[")
    assert said.endswith(f"Copy model.qformer from {aligned}/config.yaml.")


def test_no_bundle(config: Path, tmp_path: Path) -> None:
    stage, model = build(config, f"model.qformer.weights={tmp_path}")
    with pytest.raises(UserError, match=rf"^model.qformer.weights: {tmp_path} is not a bundle: there is no "):
        stage.load(model)


def test_a_bundle_of_another_version(config: Path, aligned: Path, tmp_path: Path) -> None:
    for file in aligned.glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    document = json.loads((aligned / "bundle.json").read_text())
    (tmp_path / "bundle.json").write_text(json.dumps({**document, "version": 1}))
    assert "bundle.json: version 1, this program reads 2" in refusal(config, f"model.qformer.weights={tmp_path}")


def test_a_large_encoder_is_to_be_named(
    data: Path, config: Path, aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    monkeypatch.setattr(towers, "SMALL", 0)
    encoder = tmp_path / "encoder.safetensors"
    encoder.write_bytes((aligned / "vision.safetensors").read_bytes())
    folder = speaking.write_bundle(data / "run.yaml", tmp_path / "bundle", f"model.vision.weights={encoder}")
    start = f"model.qformer.weights={folder}"
    said = refusal(config, start)
    assert said.startswith(f"model.vision.weights: {folder} was trained behind {encoder}; a random encoder would make")
    stage, model = build(config, start, f"model.vision.weights={encoder}")
    stage.load(model)
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]
    other = tmp_path / "other.safetensors"
    save_file({name: value + 1 for name, value in load_file(encoder).items()}, other)
    stage, model = build(config, start, f"model.vision.weights={other}")
    stage.load(model)
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith(f"model.vision.weights: {other} is not the file that {folder} was trained behind")


def reading(data: Path, *more: str) -> tuple[str, ...]:
    """Overrides for a Q-Former that reads the question, by stage one's tokenizer."""
    text = load(data / "run.yaml").model.text
    return ("model.qformer.reads_question=true", f"model.text.tokenizer={text.tokenizer}", "model.text.max_length=10",
            "model.text.processor=plain", "model.text.language_token=true", *more)  # fmt: skip


def test_a_q_former_that_reads_keeps_its_text_side(config: Path, aligned: Path, data: Path) -> None:
    stage, model = build(config, *reading(data))
    stage.load(model)
    theirs, ours = read_trained(aligned), model.state_dict()
    names = {name for name in theirs if name.startswith("qformer.")}
    last = {name for name in names if name.startswith("qformer.blocks.1.text_mlp.")}
    assert len(last) == 6
    assert set(compare(model, aligned).kept) >= names - last
    assert all(torch.equal(ours[name], theirs[name]) for name in names - last)
    assert not last & set(ours)


def test_a_text_side_from_stage_one_beside_a_later_bundle(
    config: Path, aligned: Path, data: Path, tmp_path: Path
) -> None:
    stage, model = build(config)
    stage.load(model)
    stage.save(tmp_path / "later", model, {})
    overrides = reading(data, f"model.qformer.weights={tmp_path / 'later'}")
    stage, model = build(config, *overrides)
    new = compare(model, tmp_path / "later").new
    assert all("text_mlp" in name or "embeddings" in name for name in new)
    stage, model = build(config, *overrides, f"model.qformer.text_weights={aligned}")
    stage.load(model)
    theirs, ours = read_trained(aligned), model.state_dict()
    assert new
    assert all(torch.equal(ours[name], theirs[name]) for name in new)
    stage, model = build(config, *overrides, f"model.qformer.text_weights={tmp_path / 'later'}")
    with pytest.raises(UserError, match=r"model\.qformer\.text_weights: .*later does not fit: qformer\..* is missing"):
        stage.load(model)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.qformer.text_weights=there", "text_weights: is read with reads_question alone"),
        ("model.qformer={reads_question: true}", "reads_question"),
    ],
)
def test_reading_where_it_means_nothing(data: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(data / "run.yaml", [override])
