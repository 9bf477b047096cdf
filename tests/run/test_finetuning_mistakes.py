"""What people get wrong when they fine-tune: one error that says where and what to do, before anything is trained."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.marks.make_data import write_data
from run import domain
from train import main

pytestmark = pytest.mark.usefixtures("alone")
SHORT = ("run.length.steps=4", "optim.warmup.steps=1", "checkpoint.every=2", "evaluate.every=4")


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("marks")
    write_data(folder, 24, 8, seed=0)
    return folder


@pytest.fixture(scope="module")
def finetune(config: Path, aligned: Path, marks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("domain")
    return domain.write_finetune(domain.write_base(config, aligned, folder), marks, folder)


@pytest.fixture
def told(refused: Callable[..., str], finetune: Path, tmp_path: Path) -> Callable[..., str]:
    """Start the fine-tuning with these overrides; its one error."""

    def start(*words: object) -> str:
        said = refused(finetune, f"run.folder={tmp_path / 'run'}", *words)
        assert "\n" not in said
        assert not (tmp_path / "run").exists()
        return said

    return start


def rewritten(marks: Path, to: Path, change: Callable[[int, dict], dict]) -> Path:
    """The training table with every row changed; its pictures are where they were."""
    rows = json.loads((marks / "train.json").read_text())
    full = [row | {"img": str(marks / row["img"])} for row in rows]
    to.write_text(json.dumps([change(number, row) for number, row in enumerate(full)]))
    return to


def test_pictures_relative_to_another_folder(told: Callable[..., str], marks: Path, tmp_path: Path) -> None:
    table = tmp_path / "train.json"
    table.write_text((marks / "train.json").read_text())
    said = told(f"data.train.0.table={table}")
    assert said.startswith(f"{table}: of the first 24 pictures it names, none is there. 'images/00000.png' was looked")
    assert "set images" in said
    said = told(f"data.train.0.table={table}", f"data.train.0.images={marks}", "tuning.lora={targets: [none]}")
    assert "tuning.lora.targets" in said  # what the message says to do helps


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _, row: {"photo": row.pop("img"), **row}, "fields.image of the source (check_table, convert: --field "),
        (lambda _, row: {"verdict": row.pop("label"), **row}, "Name yours as fields.answer or "),
        (lambda _, row: row | {"label": " "}, "none of its 24 rows can be used: 24 without an answer."),
        (lambda _, row: row | {"prompt": "标记在左边吗？", "label": "是"}, "data.languages"),
    ],
)  # fmt: skip
def test_keys_and_labels(
    told: Callable[..., str], marks: Path, tmp_path: Path, change: Callable[[int, dict], dict], message: str
) -> None:
    table = rewritten(marks, tmp_path / "table.json", change)
    said = told(f"data.train.0.table={table}")
    assert said.startswith(f"{table}: ")
    assert message in said


def test_a_field_that_no_row_has(told: Callable[..., str]) -> None:
    assert told("data.train.0.fields.answer=lable").endswith(
        "fields.answer asks for 'lable', but the rows have 'img', 'prompt', 'label', 'patient'. Did you mean 'label'?"
    )


def test_a_split_by_picture_through_patients(told: Callable[..., str], marks: Path, tmp_path: Path) -> None:
    table = rewritten(marks, tmp_path / "table.json", lambda number, row: row | {"patient": f"p{number // 6}"})
    said = told(f"data.train.0.table={table}", "data.holdout={by: image, share: 0.3}")
    # how many depends on where the pictures lie: whole paths stand in these rows
    assert re.search(r"\d groups \(key 'patient'\) would have rows in both training and validation", said)
    assert said.endswith("Set data.holdout.by: group.")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "tuning.lora={targets: [q_proj]}",
            "'q_proj' is no linear layer of the chosen blocks; there are query_key_value, ",
        ),
        ("tuning.lora={layers: [0, 14]}", "tuning.lora.layers: there is no block 14: the language model has 2, 0 to 1"),
        ("tuning.rules=[{match: 'q_former.*'}]", "'q_former.*' fits no parameter; near it: qformer, "),
        ("tuning.rules=[{match: '*', train: false}]", "nothing would train: give a rule with train, lora or prefix"),
        ("model.bundle=null", "stage finetune needs one: name a bundle of stage two, model.bundle"),
        ("model.bundle=nowhere", "model.bundle: nowhere is no bundle: it holds no bundle.json that can be read."),
        ("model.qformer.weights=null", "starts from a bundle of stage generate, and this is missing. Set model.bundle"),
        ("checkpoint.best=eval/vqa_acuracy", "none of this run's evaluation scores; did you mean eval/vqa_accuracy?"),
    ],
)
def test_what_is_not_there(told: Callable[..., str], word: str, message: str) -> None:
    said = told(word)
    assert message in said
    assert "finetune.yaml" in said or said.startswith(f"override {word}: ")


def test_patience_for_nothing(told: Callable[..., str]) -> None:
    said = told("checkpoint.best=null", "evaluate.patience=2")
    assert said.endswith("counts evaluations without a better checkpoint.best, which is null; name a score there")


def test_nobody_to_judge_by(told: Callable[..., str]) -> None:
    said = told("data.validation=[]", "evaluate.every=null", "checkpoint.best=null")
    assert "nothing is kept for validation, so nobody would know whether the model learned or memorised" in said


def test_bundles_of_other_stages(told: Callable[..., str], finetune: Path, aligned: Path, tmp_path: Path) -> None:
    said = told(f"model.bundle={aligned}")
    assert said.endswith("has no language model; fine-tuning begins with a bundle of stage generate")
    assert f"{aligned}, of stage align, which was not trained with a language model" in told(
        f"model.qformer.weights={aligned}"
    )
    other = tmp_path / "other"
    assert main([str(finetune), f"run.folder={other}", *SHORT]) == 0
    assert "is what a fine-tuning added to another bundle: merge it first, vglm checkpoint merge" in told(
        f"model.bundle={other / 'bundle'}"
    )
    said = told(f"model.qformer.weights={other / 'bundle'}")
    assert f"{other / 'bundle'}, of stage finetune: merge it first" in said


def test_a_best_score_that_the_data_does_not_give(finetune: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    """Found before the first step, and the folder is free to start again."""
    words = [finetune, f"run.folder={tmp_path / 'run'}"]
    said = refused(*words, "checkpoint.best=eval/vqa_v2")
    assert (
        "'eval/vqa_v2' is nothing that the validation data gives; it gives eval/vqa_closed, eval/vqa_accuracy" in said
    )
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert main([*map(str, words), *SHORT]) == 0


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("tuning.lora.rank=3", "tuning.lora.rank: 2 there, 3 here"),
        ("tuning.lora=null", "tuning.lora: "),
        ("tuning.rules=[{match: '*', train: false}]", "tuning.rules.0.match: "),
    ],
)
def test_a_run_goes_on_with_the_tuning_it_began_with(
    finetune: Path,
    refused: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    word: str,
    message: str,
) -> None:
    words = [str(finetune), f"run.folder={tmp_path / 'run'}", "tuning.lora={rank: 2}", *SHORT]
    assert main(words) == 0
    capsys.readouterr()
    said = refused(*words, "run.length.steps=6", word)
    assert "holds another run. Changed since it was started:\n" in said
    assert f"\n  {message}" in said
    assert main([*words, "run.length.steps=6"]) == 0


def test_check_refuses_data_that_is_here_and_wrong(told: Callable[..., str]) -> None:
    """What is not here at all is only told, so that a recipe can be read anywhere."""
    assert "fields.question" in told("data.train.0.fields={question: nokey}", "--check")
