"""What people get wrong in stage two: one error that says where and what to do, and nothing half-made left."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from made_shards import sample, write_manifest, write_shard
from prompt.made_tokenizers import ice_text, words_folder
from safetensors.torch import load_file, save_file

from run import runs, speaking
from train import main

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def told(refused: Callable[..., str], speaking_config: dict[str, Path], tmp_path: Path) -> Callable[..., str]:
    """Start stage two with a family's configuration and these overrides; its one error."""

    def start(family: str, *words: object, absent: object = None, only_running: str = "") -> str:
        fixed = (f"run.folder={tmp_path / 'run'}", "data.workers=0")
        said = refused(speaking_config[family], *fixed, *words, absent=absent, only_running=only_running)
        assert "\n" not in said
        assert not (tmp_path / "run").exists()
        return said

    return start


def folder_of(config: Path, to: Path) -> Path:
    """A copy of the language model's folder, to be damaged."""
    return Path(shutil.copytree(yaml.safe_load(config.read_text())["model"]["language"]["weights"], to))


@pytest.mark.parametrize("family", ["causal", "seq2seq"])
def test_a_tokenizer_with_more_words_than_the_model(told, tmp_path: Path, family: str) -> None:
    words = words_folder(tmp_path / "words", [f"word{number}" for number in range(300)])
    said = told(family, f"model.language.tokenizer={words}")
    assert said.startswith("the tokenizer does not belong to model.language: its largest id is 303, but the model's ")
    assert "vocabulary has 256 ids. Set model.language.tokenizer" in said


def test_chatglms_tokenizer_with_more_words_than_the_model(told, tmp_path: Path) -> None:
    file = ice_text(tmp_path / "ice", [f"piece{number}" for number in range(100)])
    said = told("chatglm", f"model.language.tokenizer={file}")
    assert said.startswith("the tokenizer does not belong to model.language.vocabulary: its largest id is ")


def test_chatglms_released_weights_with_a_tokenizer_of_ones_own(told, speaking_config) -> None:
    """Its ids are within the vocabulary; found before anything of 6 B is built."""
    said = told("chatglm", "model.language.vocabulary=130528")
    assert said.startswith("override model.language.vocabulary=130528: model.language.tokenizer: <sop> is id ")
    assert ", but 130004 in ChatGLM-6B's vocabulary of 130528: it is not the tokenizer of these weights" in said


def test_a_tokenizer_of_another_family(told, speaking_config, tmp_path: Path) -> None:
    other = yaml.safe_load(speaking_config["causal"].read_text())["model"]["language"]["weights"]
    assert told("chatglm", f"model.language.tokenizer={other}").startswith(f"{other}: no ice_text.model there.")
    nothing = tmp_path / "nothing"
    wanted = f"model.language.tokenizer: no such file or folder: {nothing}"
    assert told("causal", f"model.language.tokenizer={nothing}", absent=nothing) == wanted


def test_a_question_longer_than_the_prompt(told) -> None:
    said = told("chatglm", f"prompt.questions.en={'Describe this image. ' * 9}")
    assert ": prompt.questions.en: the question with its history is " in said
    assert "ids long, and prompt.max_prompt is 40; ask more briefly, " in said


@pytest.mark.parametrize("family", ["chatglm", "causal"])
def test_sequences_longer_than_the_models_positions(told, family: str) -> None:
    said = told(family, "prompt.max_prompt=60", "prompt.max_answer=20")
    assert said.startswith("override prompt.max_")
    assert ": prompt.max_prompt: " in said
    assert " 84; the " in said
    assert said.endswith("model has 64 positions")


@pytest.mark.parametrize("family", ["chatglm", "causal"])
def test_an_evaluation_longer_than_the_models_positions(told, family: str) -> None:
    said = told(family, "evaluate.decoding.max_new=70")
    assert said.startswith("override evaluate.decoding.max_new=70: evaluate.decoding.max_new: 70 tokens after ")
    assert said.endswith("the language model has 64 positions")


def _no_weights(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    return ", without weights. Complete the download: model.safetensors or pytorch_model.bin is missing."


def _no_shard(folder: Path) -> str:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return "lacks model-00002-of-00002.safetensors, which model.safetensors.index.json lists. Complete the download."


def _no_tensor(folder: Path) -> str:
    tensors = load_file(folder / "model.safetensors")
    lost = sorted(tensors)[-1]
    del tensors[lost]
    save_file(tensors, folder / "model.safetensors")
    return f"missing: {lost}"


def _cut_short(folder: Path) -> str:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    size = file.stat().st_size
    return f"{file} is cut short: {size:,} of {size + 100:,} bytes are there. Complete the download."


def _a_pointer(folder: Path) -> str:
    file = folder / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\n")
    return f"{file} is a Git LFS pointer, not the file itself. Fetch the file: git lfs pull, or the hub's download."


@pytest.mark.parametrize("damage", [_no_weights, _no_shard, _no_tensor, _cut_short, _a_pointer])
@pytest.mark.parametrize("family", speaking.FAMILIES)
def test_a_damaged_language_model(
    told, speaking_config, tmp_path: Path, family: str, damage: Callable[[Path], str]
) -> None:
    folder = folder_of(speaking_config[family], tmp_path / "language")
    message = damage(folder)
    said = told(family, f"model.language.weights={folder}")
    assert message in said
    assert str(folder) in said


@pytest.mark.parametrize("family", ["causal", "seq2seq"])
def test_a_folder_without_a_configuration(told, speaking_config, tmp_path: Path, family: str) -> None:
    folder = folder_of(speaking_config[family], tmp_path / "language")
    (folder / "config.json").unlink()
    said = told(family, f"model.language.weights={folder}")
    assert str(folder / "config.json") in said or str(folder) in said


@pytest.mark.parametrize("family", speaking.FAMILIES)
def test_a_language_model_that_is_not_there(told, tmp_path: Path, family: str) -> None:
    absent = tmp_path / "nothing" if family == "chatglm" else None  # the others take their shape from it
    said = told(family, f"model.language.weights={tmp_path / 'nothing'}", absent=absent)
    assert said == f"model.language.weights: no such file or folder: {tmp_path / 'nothing'}"


def test_a_family_that_is_not_the_models(told, speaking_config) -> None:
    said = told("causal", "model.language.family=seq2seq")
    assert "model_type opt is not of the family seq2seq; set model.language.family" in said


def test_another_shape_than_the_weights(told) -> None:
    said = told("chatglm", "model.language.layers=3")
    assert "does not fit the configured model: missing: transformer.layers.2." in said


def test_stages_and_language_models_that_do_not_go_together(told, refused, config: Path) -> None:
    said = told("causal", "model.language=null", "model.text.max_length=16")
    assert said.endswith("stage generate needs one: give family, weights, tokenizer")
    said = told("causal", "run.stage=align")
    assert "model.language: stage align trains no language model; leave it out, or set run.stage generate" in said
    said = refused(config, "run.stage=generate")
    assert said.endswith("model.language: stage generate needs one: give family, weights, tokenizer")


@pytest.mark.parametrize(
    ("family", "override", "message"),
    [
        ("chatglm", "prompt.style=blip2", "of family chatglm is prompted with style visualglm, not blip2"),
        ("causal", "prompt.style=visualglm", "of family causal is prompted with style blip2, not visualglm"),
        ("causal", "prompt.prefix_split=true", "needs a seq2seq language model, which reads the first words apart"),
        ("chatglm", "prompt.prefix_split=true", "belongs to style blip2 with a seq2seq language model"),
        ("causal", "prompt.end=photo number", "must be one"),
    ],
)
def test_prompts_that_do_not_fit_the_family(told, family: str, override: str, message: str) -> None:
    said = told(family, override)
    assert message in said
    assert said.startswith(f"override {override}: {override.partition('=')[0]}: ")


def test_a_q_former_that_is_no_bundle(told, config: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "bert"
    said = told("causal", f"model.qformer.weights={nothing}", absent=nothing)
    assert said.startswith(
        f"model.qformer.weights: {nothing} is not a bundle: there is no {nothing}/bundle.json. A run"
    )


def test_stage_one_from_a_bundle(refused, config: Path, aligned: Path, tmp_path: Path) -> None:
    said = refused(config, f"model.qformer.weights={aligned}", f"run.folder={tmp_path / 'run'}")
    assert ": model.qformer.weights: " in said
    assert said.endswith("is a bundle; stage align starts from BERT's weights, or from random ones with null")


def test_a_bundle_with_other_queries(told, aligned: Path) -> None:
    said = told("causal", "model.qformer.queries=6")
    assert said.startswith(f"model.qformer.weights: {aligned} does not fit the configured model: qformer.query_tokens ")


def test_an_empty_answer_is_damage(speaking_config, tmp_path: Path) -> None:
    """Where the text that ends an answer leaves nothing of it, the sample counts as one without caption."""
    data = tmp_path / "data"
    data.mkdir()
    captions = {3: {"en": ["photo photo"]}, 5: {"en": ["  "]}, 6: {}}
    made = [
        {"json": json.dumps({"id": str(n), "image_id": n, "captions": own}).encode()} for n, own in captions.items()
    ]
    extra = dict(zip(captions, made))
    write_shard(data / "a.tar", [sample(n, **extra.get(n, {})) for n in range(8)])
    write_manifest(data, {"a.tar": 8})
    words = [
        f"data.train.0.shards={data}", f"run.folder={tmp_path / 'run'}", "data.workers=0", "data.validation=[]",
        "evaluate.every=null", "run.length.steps=2", "optim.warmup.steps=1", "prompt.end=photo", "data.max_damaged=0.9",
    ]  # fmt: skip
    assert main([str(speaking_config["causal"]), *words]) == 0
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["data/damaged_caption"] == last["data/damaged"] == 2 * len(captions)
    assert "an answer is empty: the one to 'a photo'" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.slow
def test_two_processes_say_it_once(speaking_config, tmp_path: Path) -> None:
    process = runs.start(runs.command(speaking_config["causal"], tmp_path / "run", 2, "model.qformer.queries=6"))
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert len([line for line in output.splitlines() if line.startswith("error: ")]) == 1, output
    assert 'train.py", line' not in output, output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("family", ["chatglm", "causal"])
def test_weights_that_are_not_numbers(told, speaking_config, tmp_path: Path, family: str) -> None:
    """Found when they are read, before a step."""
    folder = folder_of(speaking_config[family], tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    name = sorted(name for name in weights if "layers.1" in name and weights[name].dim() == 2)[0]
    weights[name][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    said = told(family, f"model.language.weights={folder}", only_running="--check reads names and shapes alone")
    assert said.startswith(f"{folder / 'model.safetensors'} holds NaN or infinite values in {name}. Nothing can be ")
