"""Runs of all three stages with W&B offline, read back: what a person finds when they open the project."""

import json
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from wandb_reader import logged_steps, records, summary
from workspace_panels import tables, unshown

from examples.marks.make_data import write_data
from run import domain, runs
from vglm_train.checkpoint.bundle.format import read_document
from vglm_train.config.load import load
from vglm_train.config.metric_meanings import best_of, undescribed
from vglm_train.config.run import StageName
from vglm_train.evaluate.__main__ import main as evaluate

pytestmark = pytest.mark.usefixtures("alone")
STEPS = 4
WORDS = (
    "log.wandb={mode: offline, group: stages, tags: [small]}", f"run.length.steps={STEPS}", "optim.warmup.steps=1",
    "evaluate.every=2", "evaluate.table=2", "log.every=1", "checkpoint.best=null",
)  # fmt: skip


@pytest.fixture(scope="module")
def finetune_config(config: Path, aligned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("domain")
    write_data(folder / "marks", 40, 20, seed=0)
    return domain.write_finetune(domain.write_base(config, aligned, folder), folder / "marks", folder)


@pytest.fixture
def configs(config: Path, speaking_config: dict[str, Path], request) -> Callable[[StageName], Path]:
    """Stage -> the configuration of a run."""

    def of(stage: StageName) -> Path:
        if stage == "finetune":
            return request.getfixturevalue("finetune_config")
        return config if stage == "align" else speaking_config["causal"]

    return of


def check_evaluation(bundle: Path, stage: StageName, data: Path, out: Path) -> None:
    """The command's scores have the names of training; its files and its page are there."""
    out.mkdir()
    task = {"align": "retrieval", "generate": "caption", "finetune": "vqa"}[stage]
    given = [bundle, "--task", task, "--data", data, "--workers", 0, "--out", out / "s.json", "--wandb", "offline"]
    assert evaluate(list(map(str, given))) == 0
    found = records(out)
    (run,) = [record["run"] for record in found if record["type"] == "run"]
    assert (run["job_type"], run["run_group"]) == ("evaluate", "stages")
    last = summary(found)
    scores = {name for name in last if name.startswith("eval/")}
    assert undescribed(scores) == []
    assert {"align": "eval/r_mean", "generate": "eval/en_cider", "finetune": "eval/vqa_accuracy"}[stage] in scores
    (files,) = [record["artifact"]["manifest"]["contents"] for record in found if record["type"] == "artifact"]
    page = {"s.html"} if stage == "finetune" else set()
    assert {file["path"] for file in files} == {"s.json", *page}
    assert (last.get("evaluation._type") == "html-file") == bool(page)


@pytest.mark.parametrize("stage", ["align", "generate", "finetune"])
def test_what_w_and_b_has_of_a_run(configs, tmp_path: Path, monkeypatch, stage: StageName) -> None:
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "0")
    folder = tmp_path / "run"
    runs.finish_here(configs(stage), folder, *WORDS)
    found = records(folder)
    (run,) = [record["run"] for record in found if record["type"] == "run"]
    assert (run["job_type"], run["run_group"], run["tags"]) == (stage, "stages", ["small"])
    assert logged_steps(folder) == list(range(1, STEPS + 1))

    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = {name for row in rows for name in row} - {"step"}
    last = summary(found)
    for name in names:
        values = [row[name] for row in rows if row.get(name) is not None]
        best = {"min": min, "max": max, None: None}[best_of(name)] if values else None
        if best is not None:
            assert last[name] == pytest.approx({best_of(name): best(values), "last": values[-1]}), name
    assert unshown(names, stage) == set()

    shown = {path.name for path in (folder / "tables").glob("step-*/*")}
    assert shown
    assert shown <= tables(stage)
    for table in shown:
        assert last[f"{table}._type"] == "table-file"

    artifacts = [record["artifact"] for record in found if record["type"] == "artifact"]
    (bundle,) = [each for each in artifacts if each["type"] == "bundle"]
    assert bundle["name"] == f"bundle-{run['display_name']}"
    files = {path.relative_to(folder / "bundle").as_posix() for path in (folder / "bundle").rglob("*.*")}
    assert files <= {each["path"] for each in bundle["manifest"]["contents"]}
    source = load(folder / "config.yaml").model.qformer.weights
    started = read_document(Path(str(source)))["origin"].get("run", Path(str(source)).name) if source else None
    assert json.loads(bundle["metadata"]) == {"run": run["display_name"], "starts_from": started}
    assert (started is None) == (stage == "align")
    parts = load(folder / "config.yaml").data.validation
    check_evaluation(folder / "bundle", stage, Path(str(parts[0].shards or parts[0].table)), tmp_path / "scores")


@pytest.mark.slow
def test_training_goes_on_while_the_service_is_stalled(config: Path, straight: dict[int, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = runs.start(runs.command(config, folder, 1, WORDS[0]), WANDB_ERROR_REPORTING="0")
    runs.wait_for(folder, 2)
    (service,) = [each for each in psutil.Process(process.pid).children() if each.name().startswith("wandb-core")]
    service.suspend()
    runs.wait_for(folder, 30)
    service.resume()
    runs.finish(process)
    assert runs.losses(folder) == runs.losses(straight[1])
    assert logged_steps(folder) == list(range(1, 31))
