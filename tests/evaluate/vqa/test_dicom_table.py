"""Questions about DICOM files that a table names: results, pages and messages say rows, and no name of a file."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from made_dicom import PLANTED, make_dicom, patient
from run_tasks import run_task

ROWS = 8


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Questions about pictures of four patients, one of them damaged, one not there."""
    folder = tmp_path / "data"
    (folder / "WANG_Xiaoming").mkdir(parents=True)
    rows, random = ["patient,accession,image,question,answer"], np.random.default_rng(0)
    for number in range(ROWS):
        name = f"WANG_Xiaoming/MRN-4711-Q.{number}"
        data = make_dicom(random.integers(0, 256, (20, 24)).astype(np.uint8), patient(number // 2))
        if number < 7:
            (folder / name).write_bytes(data[:-99] if number == 5 else data)
        rows.append(f"MRN-4711-Q{number // 2},ACC889977-{number},{name},is it clear?,{'yes' if number % 2 else 'no'}")
    (folder / "ask.csv").write_text("\n".join(rows), "utf-8")
    return folder / "ask.csv"


def test_an_evaluation_names_rows(loaded, hospital: Path, caplog, capfd) -> None:
    with caplog.at_level(logging.DEBUG):
        report, lines, page = run_task(loaded, hospital, "--train", str(hospital))
    assert report["questions"] == ROWS - 2
    assert report["damaged"] == {"image": 2}
    assert [row["picture"] for row in report["answers"]][:2] == ["line 2, picture 1", "line 3, picture 1"]
    groups = [row["group"] for row in report["answers"]]
    assert groups[:4] == ["group of ask line 2"] * 2 + ["group of ask line 4"] * 2
    captured = capfd.readouterr()
    written = json.dumps(report, ensure_ascii=False)
    for text in (written, page, "\n".join(lines), caplog.text, captured.out, captured.err):
        assert [word for word in PLANTED if word in text] == []
