"""The made hospital: half of the studies have a finding that both views show, and nothing else tells it."""

import csv
from pathlib import Path
from random import Random

import pytest

from examples.clinic.make_data import REPORTS, TABLE, VIEWS, draw_view, write_hospital
from vglm_train.errors import UserError
from vglm_train.evaluate.findings.label import label
from vglm_train.evaluate.findings.scores import stated_findings
from vglm_train.evaluate.findings.table import shipped_table
from vglm_train.image.dicom import render


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_shows_the_finding(view: str) -> None:
    for seed in range(10):
        with_it, without = (draw_view(view, finding, Random(seed)) for finding in (True, False))
        assert (with_it > 190 * 16).sum() > 500
        assert (without > 190 * 16).sum() == 0
        assert ((with_it != without).mean()) < 0.1  # the same picture but for it


def test_reports_state_it_in_both_languages() -> None:
    table = shipped_table()
    stated = {
        finding: [stated_findings(label(text, table), table) for text in REPORTS[finding]] for finding in (True, False)
    }
    assert stated == {True: [{"lung_lesion"}] * 2, False: [set()] * 2}


def test_the_same_studies_without_it(tmp_path: Path) -> None:
    write_hospital(tmp_path / "with", 6, True, seed=1)
    write_hospital(tmp_path / "without", 6, False, seed=1)
    tables = [(tmp_path / name / TABLE).read_text("utf-8") for name in ("with", "without")]
    assert tables[0] == tables[1]
    rows = list(csv.DictReader(tables[0].splitlines()))
    assert [row["report_en"] for row in rows].count(REPORTS[True][0]) == 6
    assert len({row["patient"] for row in rows}) == 6
    for row in rows:
        bright = {name: render((tmp_path / name / row["image"]).read_bytes()).image for name in ("with", "without")}
        tops = {name: max(image.convert("L").getdata()) for name, image in bright.items()}
        assert tops["without"] < 190
        assert (tops["with"] > 190) == (row["report_en"] == REPORTS[True][0])


def test_a_folder_that_holds_something_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match="give a new one"):
        write_hospital(tmp_path, 2, True, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
