"""W&B's workspaces: every metric has a panel, every panel a metric; sent to a stand-in of W&B's server."""

import json
import re

import pytest
import wandb
import wandb_workspaces.workspaces as ws
import yaml
from wandb_reader import logged_steps, records
from wandb_server import WandbServer
from workspace_panels import NAMES, curves, tables, unshown

from vglm_train.__main__ import main
from vglm_train.config.metric_meanings import best_of
from vglm_train.config.run import Wandb
from vglm_train.report import panels, reference
from vglm_train.report.workspace import COMPARE, LAYOUTS, REFERENCE_ID, build, log_reference, send, spec


def test_every_metric_has_a_panel():
    shown = [NAMES - unshown(NAMES, stage) for stage in panels.STAGES]
    assert set().union(*shown) == NAMES


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_panel_has_a_metric(layout):
    for pattern in curves(layout):
        assert any(re.fullmatch(pattern, name) for name in NAMES), pattern


def test_a_new_metric_is_noticed():
    for stage in panels.STAGES:
        assert unshown({"train/loss", "train/wishes", "eval/en_wishes"}, stage) == {"train/wishes", "eval/en_wishes"}


def test_each_stage_shows_its_own():
    assert "train/temperature" in unshown(NAMES, "generate")
    assert "train/lm_accuracy" in unshown(NAMES, "align")
    assert {"eval/vqa_accuracy", "eval/report_majority_zh_cider"} <= unshown(NAMES, "generate") - unshown(
        NAMES, "finetune"
    )
    assert tables("align") == {"retrieval"}
    assert tables("finetune") == {"captions_en", "captions_zh", "answers_vqa", "answers_report"}


def test_runs_are_compared_by_best_values():
    text = json.dumps(spec(build(COMPARE, "project", "somebody")))
    for name in panels.COMPARED:
        assert f'"summary_metrics.{name}.{best_of(name)}"' in text
    for name in panels.ASKED:
        assert f'"config:{name.replace(".", ".value.", 1)}"' in text


def test_a_stage_has_its_own_runs_and_the_published_one():
    (runs,) = spec(build("generate", "project", "somebody"))["section"]["runSets"]
    (filter_,) = runs["filters"]["filters"]
    assert filter_["key"] == {"section": "config", "name": "run.value.stage"}
    assert filter_["value"] == ["generate", "reference"]
    assert "config:tuning.value.lora.rank" in runs["runFeed"]["columnPinned"]


def test_without_a_network_it_is_written_to_files(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump({"run": {"name": "a"}, "data": {"languages": ["en"]}}))
    assert main(["workspace", str(run), "--out", str(tmp_path / "out")]) == 0
    assert sorted(path.stem for path in (tmp_path / "out").iterdir()) == sorted(LAYOUTS)
    assert json.loads((tmp_path / "out" / "align.json").read_text()).keys() >= {"section"}
    capsys.readouterr()


def test_a_folder_that_is_no_run(tmp_path, capsys):
    assert main(["workspace", str(tmp_path)]) == 2
    assert "holds no config.yaml. Give the folder of a run." in capsys.readouterr().err


def test_the_published_curve_is_logged_once(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "0")
    config = Wandb(mode="offline", project="tests")
    assert log_reference(config, tmp_path)
    assert not log_reference(config, tmp_path)
    steps = [int(step) for step, _ in reference.curve()]
    assert logged_steps(tmp_path) == steps
    (run,) = [record["run"] for record in records(tmp_path) if record["type"] == "run"]
    assert (run["run_id"], run["job_type"]) == (REFERENCE_ID, "reference")
    history = [record["history"]["item"] for record in records(tmp_path) if record["type"] == "history"]
    assert [item["data/samples"] for item in history] == [step * reference.BATCH for step, _ in reference.curve()]


@pytest.fixture
def server(monkeypatch):
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", 40 * "a")
        monkeypatch.setenv("WANDB_ERROR_REPORTING", "0")
        wandb.teardown()  # it has read the environment of an earlier test
        yield server
        wandb.teardown()
        server.shutdown()


def test_a_second_call_renews_what_the_first_has_made(tmp_path, server):
    (tmp_path / "wandb").mkdir()
    config = Wandb(mode="online", project="tests", entity="somebody")
    first = list(send(["align", COMPARE], config, tmp_path))
    assert [line.partition(": ")[0] for line in first] == ["align", COMPARE]
    assert len(server.views) == 2
    assert list(send(["align", COMPARE], config, tmp_path)) == first
    assert len(server.views) == 2
    stored = json.loads((tmp_path / "wandb" / "workspaces.json").read_text())
    view = ws.Workspace.from_url(stored["align"])
    assert [section.name for section in view.sections] == [section.en for section in panels.sections("align")]


def test_the_command_against_a_server(tmp_path, server, capsys):
    (tmp_path / "wandb").mkdir()
    document = {"run": {"name": "a"}, "data": {"languages": ["en"]}, "log": {"wandb": {"project": "tests"}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    assert main(["workspace", str(tmp_path)]) == 0
    assert "published loss curve: logged" in capsys.readouterr().out
    assert server.steps() == [int(step) for step, _ in reference.curve()]
    wandb.teardown()  # the second command is another process
    assert main(["workspace", str(tmp_path), "--layouts", "align"]) == 0
    assert "published loss curve: is there already" in capsys.readouterr().out
    assert len(server.history) == len(reference.curve())
    assert len(server.views) == len(LAYOUTS)


def test_a_workspace_that_was_deleted_is_made_anew(tmp_path, server):
    (tmp_path / "wandb").mkdir()
    config = Wandb(mode="online", project="tests", entity="somebody")
    list(send(["align"], config, tmp_path))
    server.views.clear()
    list(send(["align"], config, tmp_path))
    assert len(server.views) == 1
