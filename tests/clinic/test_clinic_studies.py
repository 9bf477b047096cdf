"""Tables that name studies: by folders in the column of pictures, or by a column that a person has to name."""

from dataclasses import replace
from pathlib import Path

import pytest

from vglm_train.clinic.plan import Options, plan, titles
from vglm_train.clinic.state import Inputs
from vglm_train.clinic.studies import find_studies
from vglm_train.config.data import Fields
from vglm_train.errors import UserError


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """What a bundle's content is told by."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "bundle.json").write_text("{}")
    return tmp_path / "base"


def table(hospital: Path, base: Path, name: str, cell: str) -> Options:
    """Of a row for each study, whose column `name` holds `cell`."""
    rows = [f"{cell.format(number)},P{number},clear" for number in range(10)]
    reports = base.parent / "table.csv"
    reports.write_text("\n".join([f"{name},patient,report", *rows]) + "\n")
    return Options(hospital, reports, base, base.parent / "out")


@pytest.mark.parametrize(("name", "fields"), [("image", Fields()), ("place", Fields(image="place"))])
def test_folders_in_the_column_of_pictures(hospital: Path, base: Path, name: str, fields: Fields) -> None:
    """The conversion takes the pictures in them; a look through the table would find none."""
    options = find_studies(table(hospital, base, name, "study{:04d}"), fields)
    assert next(plan(options)).name == "convert"
    assert titles(options, None)[0] == "convert the pictures"
    held = Inputs.gather(options, fields)
    files = [path for path in hospital.rglob("*") if path.is_file()]
    assert held.bytes == sum(path.stat().st_size for path in files)


def test_paths_of_pictures_are_looked_through(hospital: Path, base: Path) -> None:
    options = find_studies(table(hospital, base, "image", "study{:04d}/IM0000"), Fields())
    assert next(plan(options)).name == "look"
    assert Inputs.gather(options, Fields()).values["the pictures"].startswith("10 files ")


@pytest.mark.parametrize(
    ("name", "cell", "wanted"),
    [
        ("study", "study{:04d}", "'study' holds folders of .*Give --study-field study if"),
        ("accession", "ACC{:06d}", "the columns are 'accession', 'patient', 'report'. Give --study-field COLUMN if"),
    ],
)
def test_what_to_give_where_no_column_is_known_to_hold_pictures(
    hospital: Path, base: Path, name: str, cell: str, wanted: str
) -> None:
    options = table(hospital, base, name, cell)
    with pytest.raises(UserError, match=wanted):
        find_studies(options, Fields())
    given = replace(options, study_field=name)
    assert find_studies(given, Fields()) == given
