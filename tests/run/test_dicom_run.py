"""From a hospital's folder to a trained model: nothing that a run writes names a patient."""

import json
from pathlib import Path

import numpy as np
import pytest
import wandb
from made_dicom import PLANTED, leaks, make_dicom, patient

from data_tools.convert import __main__ as convert
from data_tools.pack_shards import __main__ as pack_shards
from train import main
from vglm_train.report import __main__ as report

pytestmark = pytest.mark.usefixtures("alone")
ROWS = 40


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of forty pictures of twenty patients, one of which is broken; caches are kept below tmp_path/made."""
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "VGLM_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "made" / name))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "made"))
    hospital = tmp_path / "WANG_MRN-4711-Q"
    hospital.mkdir()
    rows, random = ["patient,name,image,report"], np.random.default_rng(0)
    for number in range(ROWS):
        data = make_dicom(random.integers(0, 4096, (20, 24)).astype(np.uint16), patient(number // 2), bits=12)
        (hospital / f"ACC889977-{number}").write_bytes(data[:-9] if number == 7 else data)
        rows.append(f"MRN-4711-Q{number // 2},WANG Xiaoming {number},ACC889977-{number},a red dog {number}")
    (hospital / "reports.csv").write_text("\n".join(rows), "utf-8")
    return hospital / "reports.csv"


@pytest.fixture
def records(hospital: Path, tmp_path: Path) -> Path:
    """The table, converted."""
    out = tmp_path / "made" / "records.jsonl"
    salt = tmp_path / "salt"
    salt.write_bytes(bytes(32))  # the same patients are held out each time
    assert convert.main([str(hospital), "--out", str(out), "--salt", str(salt)]) == 0
    return out


def test_a_run_on_converted_dicom_names_nobody(
    config: Path, records: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    made = records.parent
    assert pack_shards.main([str(records), "--out", str(made / "shards"), "--workers", "1"]) == 0
    fixed = [str(config), f"run.folder={made / 'run'}", "data.validation=[]", "data.workers=0", "data.languages=[en]"]
    packed = [f"data.train=[{{name: packed, shards: {made / 'shards'}}}]", "evaluate.every=null"]
    assert main(["--check", *fixed, *packed]) == 0
    held_out = [f"data.train=[{{name: hospital, table: {records}}}]", "data.holdout={share: 0.2, by: group}"]
    logged = ["run.length={steps: 4}", "evaluate.every=2", "log.samples=true", "log.wandb.mode=offline"]
    assert main([*fixed, *held_out, *logged]) == 0
    wandb.teardown()
    rows = [json.loads(line) for line in (made / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {row["data/damaged"] for row in rows if "data/damaged" in row} == {0}
    assert any("eval/" in name for row in rows for name in row)
    assert list(made.rglob("*.wandb")), "it was logged to W&B"
    captured = capfd.readouterr()
    text = captured.out + captured.err + caplog.text
    assert [word for word in PLANTED if word in text] == []
    assert leaks(made) == set()


def test_a_run_on_a_table_of_dicom_names_nobody(
    config: Path, hospital: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The table itself, whose path the run keeps, is where the person put it."""
    made, table = tmp_path / "made", tmp_path / "reports.csv"
    hospital.rename(table)
    text = table.read_text("utf-8").replace(",ACC", f",{hospital.parent.name}/ACC")
    table.write_text(f"{text}\nMRN-4711-Q77,WANG,WANG-none,a cat", "utf-8")
    fixed = [str(config), f"run.folder={made / 'run'}", "data.validation=[]", "data.workers=0", "data.languages=[en]"]
    held_out = [f"data.train=[{{name: hospital, table: {table}}}]", "data.holdout={share: 0.2, by: group}"]
    logged = ["run.length={steps: 4}", "evaluate.every=2", "log.samples=true", "log.wandb.mode=offline"]
    assert main([*fixed, *held_out, *logged]) == 0
    wandb.teardown()
    assert report.main([str(made / "run"), "--out", str(made / "page")]) == 0
    rows = [json.loads(line) for line in (made / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(row["data/damaged"] for row in rows if "data/damaged" in row) > 0
    assert list(made.rglob("*.wandb")), "it was logged to W&B"
    captured = capfd.readouterr()
    text = captured.out + captured.err + caplog.text
    assert "line 9" in text, "the damaged row is named"
    assert [word for word in PLANTED if word in text] == []
    assert leaks(made) == set()
