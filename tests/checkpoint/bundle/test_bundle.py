"""Bundles of both stages: they give back what was saved, wherever they are, and say what they lack."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from made_bundles import built, parts, spoken_logits
from run import runs, speaking
from safetensors.torch import load_file, save_file

from vglm_train.checkpoint.bundle import towers
from vglm_train.checkpoint.bundle.read import open_bundle
from vglm_train.config.load import load
from vglm_train.errors import UserError
from vglm_train.evaluate.__main__ import main as evaluate

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards and the configuration of a stage-one run."""
    return runs.write_run(tmp_path_factory.mktemp("data")).parent


@pytest.fixture(scope="module")
def aligned(data: Path) -> Path:
    return speaking.write_bundle(data / "run.yaml", data / "aligned")


@pytest.fixture(scope="module")
def spoken(data: Path, aligned: Path) -> dict[str, Path]:
    """Stage-two configurations by family."""
    return {
        family: speaking.write_run(data / "run.yaml", aligned, data / "spoken", family) for family in speaking.FAMILIES
    }


def test_stage_one_comes_back_and_moves(data: Path, tmp_path: Path) -> None:
    stage, model = built(data / "run.yaml")
    stage.save(tmp_path / "here", model, {"step": 7})
    there = Path(shutil.move(tmp_path / "here", tmp_path / "there"))
    found = open_bundle(there, CPU)
    assert found.document["stage"] == "align"
    assert found.document["origin"] == {"step": 7}
    assert found.config.run == stage.config.run
    assert found.text.encode("a photo number 7", "en") == stage.text.encode("a photo number 7", "en")
    batch = tiny.batch(0, 3)
    with torch.no_grad():
        keys, theirs = (m.image_keys(m.encode_image(batch.pixels)) for m in (model, found.model))
        assert torch.equal(model.qformer.queries(keys)[0], found.model.qformer.queries(theirs)[0])
    assert all(torch.equal(value, found.model.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("family", speaking.FAMILIES)
def test_stage_two_comes_back_and_moves(spoken: dict[str, Path], tmp_path: Path, family: str) -> None:
    """Neither the first bundle nor the language model's folder is needed."""
    stage, model = built(spoken[family])
    stage.save(tmp_path / "here", model, {})
    there = Path(shutil.move(tmp_path / "here", tmp_path / "there"))
    weights = Path(stage.language.weights)
    away = weights.rename(weights.with_name("away"))
    try:
        found = open_bundle(there, CPU)
    finally:
        away.rename(weights)
    assert (there / "tokenizer" / "config.json").exists() == (family != "chatglm")
    assert found.template.tokenizer.vocabulary == stage.tokenizer.vocabulary
    assert not found.model.training
    assert not found.model.language.training
    assert torch.equal(spoken_logits(found.model, found.template), spoken_logits(model, stage.template))


def test_a_language_model_of_random_weights_travels_whatever_its_size(
    spoken: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(towers, "SMALL", 0)
    folder = Path(load(spoken["causal"]).model.language.weights)
    words = ["weights=null", f"config={folder / 'config.json'}", f"tokenizer={folder}"]
    stage, model = built(spoken["causal"], *(f"model.language.{word}" for word in words))
    stage.save(tmp_path / "bundle", model, {})
    found = open_bundle(tmp_path / "bundle", CPU)
    assert torch.equal(spoken_logits(found.model, found.template), spoken_logits(model, stage.template))


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tower that came from a file is too large to travel."""
    monkeypatch.setattr(towers, "SMALL", 0)


@pytest.mark.parametrize("family", speaking.FAMILIES)
@pytest.mark.usefixtures("large")
def test_a_large_language_model_is_named(spoken: dict[str, Path], tmp_path: Path, family: str) -> None:
    """It may move; another one, one that changed and none at all are told apart from it."""
    kept = Path(load(spoken[family]).model.language.weights)
    weights = Path(shutil.copytree(kept, tmp_path / "language"))
    stage, model = built(spoken[family], f"model.language.weights={weights}")
    folder = tmp_path / "bundle"
    stage.save(folder, model, {})
    assert not (folder / "language.safetensors").exists()
    assert (folder / "vision.safetensors").exists(), "it was never a file of its own"
    wanted = spoken_logits(model, stage.template)
    assert torch.equal(spoken_logits(*parts(open_bundle(folder, CPU))), wanted)
    moved = weights.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=rf"language model's weights {weights} are not there\..*--language-weights"):
        open_bundle(folder, CPU)
    assert torch.equal(spoken_logits(*parts(open_bundle(folder, CPU, language_weights=str(moved)))), wanted)
    file = moved / "model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, file)
    with pytest.raises(UserError, match=rf"{moved} is not the language model this bundle was trained with"):
        open_bundle(folder, CPU, language_weights=str(moved))


@pytest.mark.usefixtures("large")
def test_a_large_image_encoder_is_named(data: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(data / "aligned" / "vision.safetensors", tmp_path / "encoder.safetensors"))
    stage, model = built(data / "run.yaml", f"model.vision.weights={file}")
    stage.save(tmp_path / "bundle", model, {})
    assert not (tmp_path / "bundle" / "vision.safetensors").exists()
    found = open_bundle(tmp_path / "bundle", CPU).model.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in model.state_dict().items())
    file.unlink()
    with pytest.raises(UserError, match=r"the frozen vision model's weights .* --vision-weights"):
        open_bundle(tmp_path / "bundle", CPU)


@pytest.mark.usefixtures("large")
def test_evaluate_is_told_where_the_language_model_is(
    data: Path,
    spoken: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "no_java"))
    kept = Path(load(spoken["chatglm"]).model.language.weights)
    weights = Path(shutil.copytree(kept, tmp_path / "language"))
    stage, model = built(spoken["chatglm"], f"model.language.weights={weights}")
    stage.save(tmp_path / "bundle", model, {})
    moved = weights.rename(tmp_path / "moved")
    words = [
        str(tmp_path / "bundle"),
        "--task",
        "caption",
        "--data",
        str(data / "val"),
        "--images",
        "2",
        "--workers",
        "0",
    ]
    assert evaluate(words) == 2
    assert capsys.readouterr().err.endswith("give their place with --language-weights.\n")
    assert evaluate([*words, "--language-weights", str(moved)]) == 0


def _another_version(folder: Path) -> str:
    document = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps({**document, "version": 1}))
    return r"bundle.json: version 1, this program reads 2"


def _not_json(folder: Path) -> str:
    (folder / "bundle.json").write_text("{")
    return r"bundle.json: cannot be read"


def _no_document(folder: Path) -> str:
    (folder / "bundle.json").unlink()
    return r"is not a bundle: there is no .*bundle.json"


def _cut_short(folder: Path) -> str:
    file = folder / "trained.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    return r"trained.safetensors: cannot be read"


def _lost_file(folder: Path) -> str:
    (folder / "language.safetensors").unlink()
    return r"language.safetensors"


def _lost_tokenizer(folder: Path) -> str:
    shutil.rmtree(folder / "tokenizer")
    return r"tokenizer"


def _lost_tensor(folder: Path) -> str:
    tensors = load_file(folder / "trained.safetensors")
    del tensors["projection.bias"]
    save_file(tensors, folder / "trained.safetensors")
    return r"does not fit bundle.json: missing \['projection.bias'\]"


DAMAGES = [_another_version, _not_json, _no_document, _cut_short, _lost_file, _lost_tokenizer, _lost_tensor]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("family", ["chatglm", "causal"])
def test_a_damaged_bundle(spoken: dict[str, Path], tmp_path: Path, family: str, damage: Callable[[Path], str]) -> None:
    stage, model = built(spoken[family])
    stage.save(tmp_path / "bundle", model, {})
    message = damage(tmp_path / "bundle")
    with pytest.raises(UserError, match=message) as caught:
        open_bundle(tmp_path / "bundle", CPU)
    assert str(tmp_path / "bundle") in str(caught.value)


def test_the_configuration_is_that_of_the_run(spoken: dict[str, Path], tmp_path: Path) -> None:
    stage, model = built(spoken["chatglm"])
    stage.save(tmp_path / "bundle", model, {})
    assert yaml.safe_load((tmp_path / "bundle" / "config.yaml").read_text())["run"]["stage"] == "generate"
    assert load(tmp_path / "bundle" / "config.yaml") == stage.config
