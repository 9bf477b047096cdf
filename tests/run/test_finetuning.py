"""Fine-tuning from a bundle to a verdict: it learns what is there to learn, changes nothing else, and comes back."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from made_bundles import spoken_logits
from precision import like
from safetensors.torch import load_file, save_file

from examples.marks.make_data import write_data
from run import domain, runs
from train import main
from vglm_train import stages
from vglm_train.checkpoint.__main__ import main as checkpoint
from vglm_train.checkpoint.bundle.read import open_bundle
from vglm_train.config.load import load
from vglm_train.evaluate.__main__ import main as evaluate
from vglm_train.stages.finetune import Finetune

pytestmark = pytest.mark.usefixtures("alone")
CPU = torch.device("cpu")
FROZEN = "tuning.rules=[{match: '*', train: false}]"
LORA = "tuning.lora={rank: 2, alpha: 8}"
PREFIX = "tuning.prefix={length: 3}"
SHORT = ("run.length.steps=4", "optim.warmup.steps=1", "checkpoint.best=null", "evaluate.every=null")


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("marks")
    write_data(folder, 160, 60, seed=0)
    return folder


@pytest.fixture(scope="module")
def finetune(config: Path, aligned: Path, marks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration; its bundle is `base` beside it."""
    folder = tmp_path_factory.mktemp("domain")
    return domain.write_finetune(domain.write_base(config, aligned, folder), marks, folder)


def train(config: Path, folder: Path, *words: str) -> Path:
    """The run's bundle."""
    assert main([str(config), f"run.folder={folder}", *words]) == 0
    return folder / "bundle"


def ask(bundle: Path, data: Path, *words: object) -> dict[str, Any]:
    """The JSON that an evaluation writes, in place of the one before."""
    out = bundle.parent / "scores.json"
    for earlier in (out, out.with_suffix(".html")):
        earlier.unlink(missing_ok=True)
    given = ["--task", "vqa", "--data", data, "--out", out, "--workers", "0", *words]  # the last --task counts
    assert evaluate([str(bundle), *map(str, given)]) == 0
    found: dict[str, Any] = json.loads(out.read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def learned(finetune: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a run on the marks."""
    folder = tmp_path_factory.mktemp("learned") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", "cpu")
        patch.setattr("vglm_train.distributed.stop", lambda: None)
        train(finetune, folder)
        yield folder


def test_a_planted_mark_is_learnt_and_only_by_looking(learned: Path, marks: Path) -> None:
    """Positive control: 95 % and more; with another picture shown, what always giving one answer reaches."""
    found = ask(learned / "bundle", marks / "test.json", "--train", marks / "train.json")
    scores = found["sections"][0]["scores"]["accuracy"]
    assert scores["model"]["value"] >= 95
    for blind in ("shuffled", "blank", "majority"):
        assert scores[blind]["low"] <= 50 <= scores[blind]["high"], blind
    assert all(line.endswith("above it") for line in found["verdict"])
    assert (learned / "scores.html").exists()


def test_the_bundle_gives_what_training_gave(learned: Path, marks: Path) -> None:
    step = json.loads((learned / "bundle" / "bundle.json").read_text())["origin"]["step"]
    rows = [json.loads(line) for line in (learned / "metrics.jsonl").read_text().splitlines()]
    assert runs.undescribed_metrics(learned) == []
    (logged,) = [row for row in rows if row["step"] == step and "eval/vqa_accuracy" in row]
    found = ask(learned / "bundle", marks / "test.json")
    for who, start in (("model", ""), ("shuffled", "shuffled_")):
        assert found["scores"][who]["accuracy"] == logged[f"eval/vqa_{start}accuracy"]
        assert found["scores"][who]["distinct"] == logged[f"eval/vqa_{start}distinct"]
    table = json.loads((learned / "tables" / f"step-{step:08d}" / "answers_vqa" / "table.json").read_text())
    shown = sorted((question, truth, output) for _, question, truth, output in table["rows"])
    assert shown == sorted((a["question"], a["answers"][0], a["outputs"]["model"]) for a in found["answers"])


@pytest.mark.parametrize("words", [(LORA,), (PREFIX,), (LORA, "tuning.quantize=nf4")], ids=["lora", "prefix", "qlora"])
def test_what_is_named_trains_and_nothing_else(
    finetune: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Through the real engine: every number of the whole model before and after."""
    kept: list[Any] = []
    save = Finetune.save
    monkeypatch.setattr(Finetune, "save", lambda self, *given: (kept.append(given[1]), save(self, *given)))
    bundle = train(finetune, tmp_path / "run", FROZEN, *words, *SHORT)
    stage = stages.build(load(finetune, [FROZEN, *words, *SHORT]))
    torch.manual_seed(stage.config.run.seed)
    before = stage.model()
    stage.load(before)
    stage.tune(before)
    states = before.state_dict(), kept[0].state_dict()
    assert set(states[0]) == set(states[1])
    changed = {name for name in states[0] if not torch.equal(states[0][name], states[1][name])}
    trained = {name for name, _ in before.trained_parameters()}
    assert changed == trained == set(load_file(bundle / "adapter.safetensors"))
    assert all(name.startswith("language.") for name in trained)


def test_a_merged_bundle_answers_equally_and_can_leave(finetune: Path, marks: Path, tmp_path: Path) -> None:
    """Beside the base it needs nothing; and it asks as the run did, whose prompt is not the base's."""
    words = (LORA, *SHORT[1:], "run.length.steps=30", "optim.lr=1e-2", "prompt.max_prompt=44")
    bundle = train(finetune, tmp_path / "run", *words)
    base, merged = finetune.parent / "base", tmp_path / "merged"
    assert checkpoint(["merge", str(base), "--adapter", str(bundle), "--out", str(merged)]) == 0
    ours, theirs = open_bundle(bundle, CPU), open_bundle(merged, CPU)
    logits = spoken_logits(ours.model, ours.template)
    torch.testing.assert_close(spoken_logits(theirs.model, theirs.template), logits, **like(logits, 4096))
    before = open_bundle(base, CPU)
    assert not torch.allclose(spoken_logits(before.model, ours.template), logits, atol=1e-2)
    assert theirs.config.prompt == ours.config.prompt
    found = [ask(folder, marks / "test.json")["answers"] for folder in (bundle, merged)]
    assert [answer["outputs"] for answer in found[0]] == [answer["outputs"] for answer in found[1]]
    sat = tmp_path / "sat"
    assert checkpoint(["export", str(merged), "--format", "visualglm-sat", "--out", str(sat)]) == 0
    back = ["import", str(sat), "--out", str(tmp_path / "back"), "--tokenizer", str(merged / "tokenizer")]
    assert checkpoint(back) == 0
    came = open_bundle(tmp_path / "back", CPU)
    torch.testing.assert_close(spoken_logits(came.model, theirs.template), logits, **like(logits, 4096))


def test_a_base_that_moved_and_one_that_is_another(
    learned: Path, finetune: Path, marks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = finetune.parent / "base"
    tuned, moved, other = tmp_path / "run" / "bundle", tmp_path / "moved", tmp_path / "other"
    shutil.copytree(learned / "bundle", tuned)
    shutil.copytree(base, moved)
    shutil.copytree(base, other)
    document = json.loads((tuned / "bundle.json").read_text())
    (tuned / "bundle.json").write_text(json.dumps(document | {"base": str(tmp_path / "gone")}))
    tensors = load_file(other / "trained.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, other / "trained.safetensors")

    def refused(*words: object) -> str:
        given = ["--task", "vqa", "--data", marks / "test.json", "--workers", "0", *words]
        assert evaluate([str(tuned), *map(str, given)]) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        return errors[0]

    assert refused().endswith(
        f"belongs to the bundle {tmp_path / 'gone'}, which is not there. Give its path with --base."
    )
    assert f"was not trained on {other}: the fingerprint of its trained differs." in refused("--base", other)
    assert not list(tuned.parent.glob("*.json"))
    found = ask(tuned, marks / "test.json", "--base", moved)
    assert found["scores"]["model"]["accuracy"] >= 95


@pytest.mark.parametrize(
    ("data", "task", "languages"),
    [
        ("xray_vqa/train.json", "vqa", "[en]"),
        ("xray_vqa/train.json", "report", "[en]"),
        ("fewshot/dataset.json", "vqa", "[zh]"),
    ],
)
def test_tables_of_the_trade_train_as_they_are(
    shared: Path,
    finetune: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    data: str,
    task: str,
    languages: str,
) -> None:
    """Letters are bytes to this language model, so that lengths are several times the usual."""
    monkeypatch.setenv("PATH", str(tmp_path / "no_java"))  # METEOR takes half a minute, and is tested elsewhere
    table = shared / "data" / data
    held = table.with_name("test.json")
    held = held if held.exists() else table
    words = [
        f"data.train.0.table={table}", f"data.validation.0.table={held}", f"data.languages={languages}",
        "model.language.positions=400", "prompt.max_prompt=300", "prompt.max_answer=24", "data.global_batch=8",
        f"evaluate.task={task}", "evaluate.images=12", "evaluate.every=3", "checkpoint.best=null",
        f"evaluate.allow_training_data={held == table}".lower(),
    ]  # fmt: skip
    bundle = train(finetune, tmp_path / "run", *SHORT[:2], *words)
    scores = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any(f"eval/{task}_distinct" in row for row in scores)
    found = ask(bundle, held, "--images", 20, "--train", table, "--task", task)
    assert found["questions"] > 0
    assert set(found["scores"]) == {"model", "majority", "shuffled", "blank"}
    page = (tmp_path / "run" / "scores.html").read_text("utf-8")
    assert all(f"<th>{who}" in page for who in ("commonest answer", "another picture", "grey picture"))
