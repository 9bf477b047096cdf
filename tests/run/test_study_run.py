"""From studies of two views to a model: training and evaluation look at both, and nobody is named."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from made_dicom import leaks, make_dicom, patient

from data_tools.convert import __main__ as convert
from train import main
from vglm_train.config.data import Source
from vglm_train.data.eval_captions import EvalSet

pytestmark = pytest.mark.usefixtures("alone")
STUDIES = 12


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve studies, lateral and frontal, of a folder and a table of reports in two languages."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "made" / "settings"))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))  # no Java, which takes seconds to start
    hospital, random = tmp_path / "hospital", np.random.default_rng(0)
    hospital.mkdir()
    rows = ["accession,report"]
    for study in range(STUDIES):
        for position in ("LL", "PA"):
            tags = {**patient(study), "AccessionNumber": f"ACC889977-{study}", "ViewPosition": position}
            values = random.integers(0, 4096, (20, 24)).astype(np.uint16)
            (hospital / f"{position}{study}").write_bytes(make_dicom(values, tags, bits=12))
        report = f"FINDINGS: a photo number {study}. IMPRESSION: Unchanged." if study % 2 else f"所见：第{study}张照片"
        rows.append(f"ACC889977-{study},{report}")
    (hospital / "reports.csv").write_text("\n".join(rows), "utf-8")
    (tmp_path / "salt").write_bytes(bytes(32))  # the same patients are held out each time
    out = tmp_path / "made" / "records.jsonl"
    options = ["--study-field", "accession", "--report-part", "findings", "--salt", str(tmp_path / "salt")]
    assert convert.main([str(hospital / "reports.csv"), "--out", str(out), *options]) == 0
    return out


def test_both_views_are_learned_and_evaluated(speaking_config: dict[str, Path], records: Path, tmp_path: Path) -> None:
    made, source = records.parent, {"name": "studies", "table": str(records)}
    document = yaml.safe_load(speaking_config["causal"].read_text())
    document["data"] |= {"train": [source], "validation": [], "holdout": {"by": "group", "share": 0.4}, "workers": 0}
    document["prompt"]["max_images"] = 2
    document["run"] |= {"folder": str(made / "run"), "length": {"steps": 2}}
    document["optim"]["warmup"] = {"steps": 1}
    document["evaluate"] |= {"every": 2, "decoding": {"max_new": 4}}
    path = tmp_path / "studies.yaml"
    path.write_text(yaml.safe_dump(document, allow_unicode=True))
    assert main([str(path)]) == 0
    rows = [json.loads(line) for line in (made / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {row["data/damaged"] for row in rows if "data/damaged" in row} == {0}
    assert any(name.startswith("eval/en_loss") for row in rows for name in row)
    found = list(EvalSet([Source(**source)], 16, ("en", "zh"), pictures=2))
    assert [item.pictures.shape for item in found] == [(2, 3, 16, 16)] * STUDIES
    assert leaks(made) == set()
