"""Runs of all three stages with W&B offline, read back: what a person finds when they open the project."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from wandb_reader import logged_steps, records
from workspace_panels import tables, unshown

from examples.marks.make_data import write_data
from run import domain, runs
from vglm_train.checkpoint.bundle.format import read_document
from vglm_train.config.load import load
from vglm_train.config.metric_meanings import best_of
from vglm_train.config.run import StageName

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
    summary = {k: v for each in found if each["type"] == "summary" for k, v in each["summary"]["update"].items()}
    for name in names:
        values = [row[name] for row in rows if row.get(name) is not None]
        best = {"min": min, "max": max, None: None}[best_of(name)] if values else None
        if best is not None:
            assert summary[name] == pytest.approx({best_of(name): best(values), "last": values[-1]}), name
    assert unshown(names, stage) == set()

    shown = {path.name for path in (folder / "tables").glob("step-*/*")}
    assert shown
    assert shown <= tables(stage)
    for table in shown:
        assert summary[f"{table}._type"] == "table-file"

    artifacts = [record["artifact"] for record in found if record["type"] == "artifact"]
    (bundle,) = [each for each in artifacts if each["type"] == "bundle"]
    assert bundle["name"] == f"bundle-{run['display_name']}"
    files = {path.relative_to(folder / "bundle").as_posix() for path in (folder / "bundle").rglob("*.*")}
    assert files <= {each["path"] for each in bundle["manifest"]["contents"]}
    source = load(folder / "config.yaml").model.qformer.weights
    started = read_document(Path(str(source)))["origin"].get("run", Path(str(source)).name) if source else None
    assert json.loads(bundle["metadata"]) == {"run": run["display_name"], "starts_from": started}
    assert (started is None) == (stage == "align")
