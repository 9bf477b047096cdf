"""Tables that name studies: by folders in the column of pictures, or by a column that a person has to name."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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


def folders(tmp_path: Path, rows: Sequence[Mapping[str, Any]], *pictures: str) -> Options:
    """A hospital of these files, each with a content of its own, and a table of these rows."""
    place = tmp_path / "pictures"
    for picture in pictures:
        (place / picture).parent.mkdir(parents=True, exist_ok=True)
        (place / picture).write_text(picture)
    reports = tmp_path / "reports.jsonl"
    reports.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Options(place, reports, tmp_path, tmp_path / "out")


MANY = 150  # rows before the one that matters: more than are looked at to tell the columns
OWN = [{"path": f"s{n}", "report": f"clear {n}"} for n in range(MANY)]
FILES = [f"s{n}/0.png" for n in range(MANY)]


@pytest.mark.parametrize(
    "last",
    [
        [{"path": "P0", "report": "clear"}, {"path": "P0/", "report": "effusion"}],
        [{"path": "P0", "report": "clear"}, {"path": "P0/t1", "report": "effusion"}],
        [{"path": "P0", "report": "clear"}, {"path": "linked", "report": "effusion"}],
    ],
)
def test_a_folder_that_rows_with_different_reports_name(tmp_path: Path, last: list[dict[str, str]]) -> None:
    """It may be a patient's: both reports would get the pictures of both studies."""
    options = folders(tmp_path, [*OWN, *last], *FILES, "P0/t1/0.png", "P0/t2/0.png")
    (options.folder / "linked").symlink_to("P0")
    with pytest.raises(UserError, match=r"line 151 and line 152 name one folder in 'path', .*--study-field path"):
        find_studies(options, Fields())
    given = replace(options, study_field="path")
    assert find_studies(given, Fields()) == given


def test_several_rows_of_a_folder_that_are_of_one_study(tmp_path: Path) -> None:
    same = [{"path": "P0", "report": "clear"}] * 2
    assert find_studies(folders(tmp_path, same, "P0/0.png"), Fields()).folders
    asked = [{"path": "P0", "question": name, "answer": name} for name in ("heart?", "bones?")]
    assert find_studies(folders(tmp_path, asked, "P0/0.png"), Fields()).folders


@pytest.mark.parametrize("other", ["image_name", "image_id"])
@pytest.mark.parametrize("ending", ["", ".png"])
def test_a_folder_beside_a_picture_in_it(tmp_path: Path, other: str, ending: str) -> None:
    """Each row is of one picture, and would get all."""
    rows = [*OWN, *({"image_path": "P0", other: f"{name}{ending}", "report": name} for name in "ab")]
    rows = [{"image_path": row.get("path", "P0"), other: "", **row, "path": ""} for row in rows]
    options = folders(tmp_path, rows, *FILES, "P0/a.png", "P0/b.png")
    with pytest.raises(UserError, match=f"line 151: 'image_path' names a folder, and '{other}' a picture in it"):
        find_studies(options, Fields())


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"images": ["st0"], "report": "clear"}, True),
        ({"image": 7, "report": "clear"}, True),
        ({"image": "/data/h/x0.png", "path": "st0", "report": "clear"}, False),
        ({"images": ["x0.png"], "path": "st0", "report": "clear"}, False),
        ({"image": "..", "report": "clear"}, False),
        ({"image": "/", "report": "clear"}, False),
        ({"image": "st0/..", "report": "clear"}, False),
        ({"image": "linked", "report": "clear"}, True),
    ],
)
def test_what_is_a_folder_of_the_hospital(tmp_path: Path, row: dict[str, Any], found: bool) -> None:
    """As the conversion reads it: the first known column alone, lists and numbers too."""
    options = folders(tmp_path, [row], "st0/0.png", "7/0.png", "x0.png", "../elsewhere/0.png")
    (options.folder / "linked").symlink_to(tmp_path / "elsewhere")
    assert find_studies(options, Fields()).folders is found


def test_a_table_with_an_id_of_pictures(tmp_path: Path) -> None:
    options = folders(tmp_path, [{"image_id": "x0", "report": "clear"}], "x0.png")
    with pytest.raises(UserError, match="Give --field image=image_id for a column"):
        find_studies(options, Fields())


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
