"""`model.bundle` in place of what the bundle was made with."""

import json
from pathlib import Path

import pytest

from vglm_train.config.inherit import DEFAULT
from vglm_train.config.load import dump, load
from vglm_train.config.run import Run
from vglm_train.errors import UserError

MADE = """\
run: {name: made, stage: generate, length: {steps: 9}}
model:
  vision: {image_size: 28, patch: 14, width: 32, depth: 1, heads: 2, mlp_width: 64, weights: elsewhere.safetensors}
  qformer: {layers: 2, width: 32, heads: 2, mlp_width: 64, queries: 4}
  language: {family: FAMILY, weights: weights/lm, tokenizer: t, width: 64, heads: 2, dtype: fp32}
prompt: {style: visualglm, max_prompt: 20, max_answer: 11}
data:
  train: [{name: photos, shards: shards/photos}]
  languages: [en, zh]
  image: {mean: [0.5, 0.5, 0.5], crop_scale: [0.9, 1.0]}
optim: {lr: 0.5}
"""
MINE = """\
run: {name: mine, stage: finetune}
model:
  bundle: made
  language: {dtype: bf16}
prompt: {max_answer: 40}
data: {train: [{name: xray, table: train.json}]}
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(Path("made"))
    Path("run.yaml").write_text(MINE)
    return Path("run.yaml")


def write(folder: Path, stage: str = "generate", family: str = "chatglm") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(MADE.replace("FAMILY", family))
    towers = {"vision": {"file": "vision.safetensors"}, "language": {"file": "/far/lm", "fingerprint": "abc"}}
    (folder / "bundle.json").write_text(json.dumps({"version": 2, "stage": stage, "towers": towers}))


def test_model_and_prompt_come_from_the_bundle_and_the_file_goes_over_them(made: Path) -> None:
    config = load(made)
    assert (config.model.vision.width, config.model.qformer.queries) == (32, 4)
    assert (config.prompt.max_prompt, config.prompt.max_answer) == (20, 40)
    assert config.model.language is not None
    assert (config.model.language.dtype, config.model.language.width) == ("bf16", 64)
    assert config.data.languages == ("en", "zh")
    assert config.data.image.mean == (0.5, 0.5, 0.5)


def test_nothing_else_comes_from_the_bundle(made: Path) -> None:
    config = load(made)
    assert config.data.image.crop_scale == (0.5, 1.0)
    assert config.optim.lr == 1e-4
    assert config.run.length.epochs == 10
    assert [source.name for source in config.data.train] == ["xray"]


def test_weights_and_tokenizers_are_named_where_they_lie(made: Path) -> None:
    config = load(made)
    assert config.model.qformer.weights == "made"
    assert config.model.vision.weights == "made/vision.safetensors"
    assert config.model.language is not None
    assert config.model.language.weights == "/far/lm"
    assert config.model.language.tokenizer == "made/tokenizer"
    assert config.model.language.config is None


def test_a_q_former_that_reads_goes_on_with_what_it_learnt(made: Path) -> None:
    """Its tokenizer came along, and its text side is the bundle's, not the one that it had begun with."""
    config = Path("made/config.yaml")
    reading = "queries: 4, reads_question: true, text_weights: runs/stage_one/bundle}\n  text: {max_length: 8}"
    config.write_text(config.read_text().replace("queries: 4}", reading))
    Path("made/question_tokenizer").mkdir()
    model = load(made).model
    assert model.qformer.reads_question
    assert model.qformer.text_weights is None
    assert model.text.tokenizer == "made/question_tokenizer"


def test_other_families_take_their_shape_from_the_bundle(made: Path) -> None:
    write(Path("made"), family="causal")
    language = load(made).model.language
    assert language is not None
    assert language.config == "made/tokenizer"


def test_the_resolved_run_no_longer_needs_the_bundle_to_be_read(made: Path) -> None:
    config = load(made)
    Path("resolved.yaml").write_text(dump(config))
    Path("made/bundle.json").unlink()
    assert load(Path("resolved.yaml")) == config


def test_an_override_names_another_bundle(made: Path) -> None:
    write(Path("other"))
    assert load(made, ["model.bundle=other"]).model.qformer.weights == "other"
    with pytest.raises(UserError, match=r"model.qformer: .*Did you mean model.qformer.queries|queriez"):
        load(made, ["model.qformer.queriez=3"])


def test_what_is_no_bundle_is_named_with_its_line(made: Path) -> None:
    Path("made/bundle.json").unlink()
    with pytest.raises(UserError, match=r"run.yaml:3: model.bundle: made is no bundle"):
        load(made)


def test_a_fine_tuned_bundle_is_to_be_merged_first(made: Path) -> None:
    write(Path("made"), stage="finetune")
    with pytest.raises(UserError, match=r"checkpoint merge BASE --adapter made --out"):
        load(made)


@pytest.mark.parametrize(
    ("stage", "how"),
    [(", stage: align", "run.stage is align"), ("", "run.stage is not given, so it is align")],
)
def test_stage_one_does_not_begin_with_a_language_model(made: Path, stage: str, how: str) -> None:
    made.write_text(MINE.replace(", stage: finetune", stage))
    with pytest.raises(UserError) as refused:
        load(made)
    said = f"run.yaml:3: model.bundle: made is of stage generate and has a language model, and {how}, which trains none"
    assert str(refused.value).startswith(f"{said}. Set run.stage: finetune to adapt the bundle")
    assert load(made, ["model.language=null"]).model.language is None


def test_the_stage_that_is_taken_for_granted(made: Path) -> None:
    assert Run(name="x").stage == DEFAULT


def test_a_wrong_value_in_the_bundle_is_blamed_on_its_file(made: Path) -> None:
    file = Path("made/config.yaml")
    file.write_text(file.read_text().replace("max_prompt: 20", "max_prompt: -1"))
    with pytest.raises(UserError, match=r"made/config.yaml:\d+: prompt.max_prompt"):
        load(made)
