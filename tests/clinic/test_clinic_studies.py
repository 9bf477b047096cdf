"""Tables that name studies: by folders in the column of pictures, or by a column that a person has to name."""

from dataclasses import replace
from pathlib import Path

import pytest

from clinic.starts import command, start
from vglm_train.clinic.plan import Options, plan, titles
from vglm_train.clinic.state import Inputs
from vglm_train.clinic.studies import find_studies
from vglm_train.config.data import Fields
from vglm_train.errors import UserError


def table(hospital: Path, base: Path, folder: Path, name: str, cell: str) -> Options:
    """Of a row for each study, whose column `name` holds `cell`."""
    rows = [f"{cell.format(number)},P{number},No abnormality." for number in range(10)]
    reports = folder / "table.csv"
    reports.write_text("\n".join([f"{name},patient,report", *rows]) + "\n")
    return Options(hospital, reports, base, folder / "out")


@pytest.mark.parametrize(("name", "fields"), [("image", Fields()), ("place", Fields(image="place"))])
def test_folders_in_the_column_of_pictures(
    hospital: Path, base: Path, tmp_path: Path, name: str, fields: Fields
) -> None:
    """The conversion takes the pictures in them; a look through the table would find none."""
    options = find_studies(table(hospital, base, tmp_path, name, "study{:04d}"), fields)
    assert next(plan(options)).name == "convert"
    assert titles(options, None)[0] == "convert the pictures"
    held = Inputs.gather(options, fields)
    files = [path for path in hospital.rglob("*") if path.is_file()]
    assert held.bytes == sum(path.stat().st_size for path in files)


def test_paths_of_pictures_are_looked_through(hospital: Path, base: Path, tmp_path: Path) -> None:
    options = find_studies(table(hospital, base, tmp_path, "image", "study{:04d}/IM0000"), Fields())
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
    hospital: Path, base: Path, tmp_path: Path, name: str, cell: str, wanted: str
) -> None:
    options = table(hospital, base, tmp_path, name, cell)
    with pytest.raises(UserError, match=wanted):
        find_studies(options, Fields())
    given = replace(options, study_field=name)
    assert find_studies(given, Fields()) == given


@pytest.mark.slow
def test_a_table_of_folders_ends_in_a_verdict(hospital: Path, base: Path, salt: Path, tmp_path: Path) -> None:
    options = table(hospital, base, tmp_path, "image", "study{:04d}")
    words = command(hospital, base, options.out, salt)
    words[words.index("--reports") + 1] = str(options.reports)
    ended = start(words, tmp_path)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert "=== step 1 of 7: convert the pictures" in ended.stdout
    assert "10 records of 10 rows" in ended.stdout
    assert "=== verdict" in ended.stdout
    assert start(words, tmp_path).stdout.count("--- done before") == 7
