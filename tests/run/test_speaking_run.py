"""Stage two from end to end: a stage-one bundle before a frozen language model of each family."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from run import runs, speaking
from train import main
from vglm_train import stages
from vglm_train.checkpoint.bundle.read import open_bundle
from vglm_train.config.load import load
from vglm_train.evaluate.__main__ import main as evaluate

pytestmark = pytest.mark.usefixtures("alone", "no_java")
STEPS = 30
TOWERS = ("vision.encoder.", "language.")
TRAINED = {"vision_norm", "qformer", "projection"}


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """METEOR's program takes 15 s to start."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


Finished = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def finished(speaking_config: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Configuration and folder of a finished run of each family, trained when first asked for."""
    folders: dict[str, Path] = {}

    def of(family: str) -> tuple[Path, Path]:
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp("spoken") / family
            assert train(speaking_config[family], folders[family]) == 0
        return speaking_config[family], folders[family]

    return of


def train(config: Path, folder: Path, *overrides: str) -> int:
    return main([str(config), f"run.folder={folder}", "data.workers=0", *overrides])


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(config: Path) -> dict[str, Tensor]:
    """The model as this run begins."""
    stage = stages.build(load(config))
    torch.manual_seed(load(config).run.seed)
    model = stage.model()
    stage.load(model)
    return model.state_dict()


@pytest.mark.parametrize("family", speaking.FAMILIES)
def test_it_learns_and_writes_what_it_promises(finished: Finished, family: str) -> None:
    _, folder = finished(family)
    train_rows = [row for row in rows(folder) if "train/loss" in row]
    assert [row["step"] for row in train_rows] == list(range(1, STEPS + 1))
    losses = [row["train/loss_lm"] for row in train_rows]
    assert fmean(losses[-5:]) < fmean(losses[:3]) - 0.2
    for row in train_rows:
        assert row["train/loss"] == row["train/loss_lm"]
        assert 0 <= row["train/lm_accuracy"] <= 1
        assert 0 <= row["train/padding"] < 0.5
        assert row["perf/tokens_per_second"] > 0
        assert "perf/mfu" not in row, "there is no peak of a CPU"
    assert fmean(row["train/padding"] for row in train_rows) > 0
    assert runs.undescribed_metrics(folder) == []
    judged = [row for row in rows(folder) if "eval/en_loss" in row]
    assert [row["step"] for row in judged] == [10, 20, 30]
    for language in ("en", "zh"):
        names = ("cider", "bleu4", "rouge_l", "distinct", "loss", "shuffled_loss", "loss_gap", "loss_gap_low")
        assert {f"eval/{language}_{name}" for name in names} <= set(judged[0])
    assert sorted(p.name for p in (folder / "bundle").iterdir()) == [
        "bundle.json", "config.yaml", "language.safetensors", "tokenizer", "trained.safetensors", "vision.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("family", speaking.FAMILIES)
def test_towers_stay_and_all_else_moves(finished: Finished, aligned: Path, family: str) -> None:
    config, folder = finished(family)
    before = weights(config)
    after = open_bundle(folder / "bundle", torch.device("cpu")).model.state_dict()
    assert before.keys() == after.keys()
    still = {name for name in before if torch.equal(before[name], after[name])}
    frozen = {name for name in before if name.startswith(TOWERS)}
    assert frozen <= still
    # a key's bias moves all of a query's scores alike, which softmax does not see
    assert {name for name in still - frozen if "key_value.bias" not in name and "qkv.bias" not in name} == set()
    assert {name.split(".")[0] for name in before if name not in frozen} == TRAINED
    one = open_bundle(aligned, torch.device("cpu")).model.state_dict()
    assert all(torch.equal(one[name], before[name]) for name in before if name.startswith(("vision", "qformer.")))


@pytest.mark.parametrize("family", speaking.FAMILIES)
def test_evaluate_the_bundle(
    finished: Finished, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str
) -> None:
    _, folder = finished(family)
    capsys.readouterr()
    out = tmp_path / "scores.json"
    words = [str(folder / "bundle"), "--data", str(config.parent / "val"), "--workers", "0", "--out", str(out)]
    assert evaluate([*words, "--task", "caption"]) == 0
    said = capsys.readouterr().out
    assert "en: 12 images, 24 references, per cent" in said
    assert "zh: 12 images, 12 references, per cent" in said
    report = json.loads(out.read_text())
    judged = [row for row in rows(folder) if "eval/en_loss" in row][-1]
    for name, value in report["scores"].items():
        assert value == pytest.approx(judged[name], rel=1e-4, abs=1e-5), name
    assert evaluate([*words, "--task", "retrieval"]) == 2
    assert (
        "is of stage 'generate': give --task caption or vqa or report, not --task retrieval." in capsys.readouterr().err
    )


def test_check_says_what_is_carried_over(
    speaking_config: dict[str, Path], aligned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(speaking_config["chatglm"]), f"run.folder={tmp_path / 'run'}", "--check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    trained = next(line for line in lines if line.startswith("trained: "))
    assert "(vision_norm 48, qformer " in trained
    assert trained.endswith(", projection 1,056)")
    assert any(line.startswith("frozen: ") and "vision 9,648, language " in line for line in lines)
    place = lines.index(next(line for line in lines if line.startswith(f"from {aligned}: ")))
    kept, dropped, new = lines[place : place + 3]
    state = open_bundle(aligned, torch.device("cpu")).model.state_dict()
    own = {name for name in state if not name.startswith("vision.")}
    number = int(dropped.partition("(")[2].partition(")")[0])
    assert kept == f"from {aligned}: {len(own) - number} tensors carried over"
    for part in ("text_mlp.up.weight", "qformer.embeddings.words.weight", "temperature", "matching_head.weight"):
        assert part in dropped
    assert new == "  new (2): projection.bias, projection.weight"
    assert f"image encoder: {aligned / 'vision.safetensors'}" in lines
    assert f"language model: {speaking_config['chatglm'].with_name('chatglm')}" in lines
    assert any(line.startswith("tokenizer: ") and line.endswith("400 tokens") for line in lines)
    memory = next(line for line in lines if line.startswith("memory a rank: about "))
    assert " 0.0" not in memory, "a small model's memory has a unit in which it can be read"
    assert "KiB" in memory
    beside = "memory beside it: the first process keeps "
    assert any(line.startswith(beside) and line.endswith("iB for the checkpoint being written") for line in lines)
    assert not (tmp_path / "run").exists()


def test_check_on_a_cpu_says_nothing_else(speaking_config: dict[str, Path], tmp_path: Path) -> None:
    """SAT imports DeepSpeed, which warns of a CPU that it has to find out about."""
    words = [sys.executable, "train.py", str(speaking_config["chatglm"]), f"run.folder={tmp_path}", "--check"]
    environment = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(words, cwd=runs.ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("run:\n")
    assert "WARNING" not in done.stdout
    assert done.stderr == ""


def test_a_resumed_run_goes_on_bit_for_bit(finished: Finished, tmp_path: Path) -> None:
    config, done = finished("chatglm")
    folder = Path(shutil.copytree(done, tmp_path / "run"))
    shutil.rmtree(folder / "bundle")
    shutil.rmtree(folder / "checkpoints" / "step-00000030")
    (folder / "checkpoints" / "latest").write_text("step-00000025\n")
    assert train(config, folder) == 0
    assert runs.losses(folder) == runs.losses(done)
    for file in ("trained.safetensors", "language.safetensors", "vision.safetensors"):
        assert (folder / "bundle" / file).read_bytes() == (done / "bundle" / file).read_bytes()
    assert train(config, folder) == 0, "nothing is left to do"
    assert runs.losses(folder) == runs.losses(done)


@pytest.mark.parametrize(("score", "best"), [("eval/en_loss", min), ("eval/en_cider", max)])
def test_the_best_step_is_kept(
    speaking_config: dict[str, Path], tmp_path: Path, score: str, best: Callable[..., float]
) -> None:
    """Of losses the lowest: the run is made worse after some steps by a rate that only grows."""
    words = [f"checkpoint.best={score}", "checkpoint.keep=1", "evaluate.every=2", "run.length.steps=12"]
    words += ["optim={lr: 1.0, min_lr: 1.0, warmup: {steps: 6}}", "data.languages=[en]", "checkpoint.every=100"]
    assert train(speaking_config["causal"], tmp_path / "run", *words) == 0
    judged = {row["step"]: row[score] for row in rows(tmp_path / "run") if score in row}
    wanted = best(judged.values())
    step = next(step for step, value in judged.items() if value == wanted)
    kept = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == sorted({"latest", f"step-{step:08d}", "step-00000012"})
    assert len(judged) == 6
    state = load_file(tmp_path / "run" / "checkpoints" / f"step-{step:08d}" / "tensors.safetensors")
    given = load_file(tmp_path / "run" / "bundle" / "trained.safetensors")
    assert all(torch.equal(given[name], state[f"weight/model.{name}"]) for name in given), "the best is the result"


def test_a_run_ends_when_its_score_no_longer_rises(speaking_config: dict[str, Path], tmp_path: Path) -> None:
    words = ["checkpoint.best=eval/en_cider", "evaluate.patience=2", "evaluate.every=2", "run.length.steps=40"]
    words += ["optim={lr: 1e-15, min_lr: 0, warmup_lr: 0, warmup: {steps: 6}}"]  # nothing is learnt: the first is best
    words += ["data.languages=[en]", "checkpoint.every=100"]
    run = tmp_path / "run"
    assert train(speaking_config["causal"], run, *words) == 0
    best = 2
    assert [row["step"] for row in rows(run) if "eval/en_cider" in row] == [2, 4, 6]
    origin = json.loads((run / "bundle" / "bundle.json").read_text())["origin"]
    assert origin["step"] == best
    assert train(speaking_config["causal"], run, *words) == 0
    assert max(row["step"] for row in rows(run)) == best + 4, "the same command does not go on"


def test_a_language_model_in_low_precision(finished: Finished, tmp_path: Path) -> None:
    """As published recipes have it: everything that trains is fp32 all the same."""
    config, _ = finished("chatglm")
    words = ["model.language.dtype=fp16", "engine.precision=bf16", "engine.recompute=true", "evaluate.every=null"]
    assert train(config, tmp_path / "run", *words, "run.length.steps=4", "data.validation=[]") == 0
    found = open_bundle(tmp_path / "run" / "bundle", torch.device("cpu")).model
    assert {p.dtype for p in found.language.parameters()} == {torch.float16}
    assert {p.dtype for p in found.qformer.parameters()} == {torch.float32}
