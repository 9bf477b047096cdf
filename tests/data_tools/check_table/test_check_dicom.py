"""What is said of a table of DICOM names rows, and no file."""

import logging
from pathlib import Path

import numpy as np
import pytest
from made_dicom import PLANTED, make_dicom

from data_tools.check_table import __main__ as check_table


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_rows_are_named_and_nobody_else(
    form: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder, random = tmp_path / "WANG_Xiaoming", np.random.default_rng(0)
    folder.mkdir()
    rows = ["patient,name,image,report"]
    for number in range(6):
        data = make_dicom(random.integers(0, 4096, (20, 24)).astype(np.uint16), bits=12)
        (folder / f"ACC889977-{number}").write_bytes(data[:-99] if number == 2 else data)
        rows.append(f"MRN-4711-Q,WANG Xiaoming,WANG_Xiaoming/ACC889977-{number},clear {number}")
    (folder / "ACC889977-3").unlink()
    table = tmp_path / "reports.csv"
    table.write_text("\n".join(rows), "utf-8")
    with caplog.at_level(logging.DEBUG):
        assert check_table.main([str(table), "--against", str(table), "--workers", "1", *form]) == 1
    captured = capfd.readouterr()
    text = captured.out + captured.err + caplog.text
    assert "line 4" in text
    assert "line 5" in text
    assert [word for word in PLANTED if word in text] == []
