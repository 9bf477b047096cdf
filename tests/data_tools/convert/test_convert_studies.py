"""The views of a study become one record, whichever way the table names them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_dicom import PLANTED, ROOT, leaks, make_dicom, patient
from PIL import Image

from data_tools.convert import __main__ as convert
from data_tools.pack_shards import __main__ as pack_shards
from vglm_train.data.record import parse
from vglm_train.errors import UserError
from vglm_train.image.dicom import render

RNG = np.random.default_rng(4)


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a salt."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))


def view(study: int, position: str, **tags: Any) -> bytes:
    """A file of a study, as the view `position` of its own patient."""
    own = {**patient(study), "AccessionNumber": f"ACC889977-{study}", "StudyID": "1", "ViewPosition": position}
    return make_dicom(RNG.integers(0, 4096, (24, 30)).astype(np.uint16), {**own, **tags}, bits=12)


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Six studies of a lateral and a frontal picture, the lateral first, in folders that name the patient."""
    folder = tmp_path / "hospital"
    for study in range(6):
        place = folder / f"WANG_Xiaoming_{study}" / "series"
        place.mkdir(parents=True)
        (place / "IM1").write_bytes(view(study, "LL", PatientName=f"王^小明{study}", SpecificCharacterSet="GB18030"))
        (place / "IM2").write_bytes(view(study, "PA"))
        (place / "note.txt").write_text("WANG")
    (folder / "DICOMDIR").write_bytes(view(9, "PA"))
    return folder


def write(folder: Path, *rows: str) -> None:
    (folder / "reports.csv").write_text("\n".join(rows) + "\n", "utf-8")


def run(folder: Path, out: Path, *options: str) -> list[dict[str, Any]]:
    assert convert.main([str(folder / "reports.csv"), "--out", str(out), *options]) == 0
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


def both(study: int) -> list[Path]:
    """The files of a study, frontal first."""
    return [Path(f"WANG_Xiaoming_{study}/series/IM{number}") for number in (2, 1)]


def assert_studies(folder: Path, out: Path, records: list[dict[str, Any]]) -> None:
    assert [record["views"] for record in records] == [["PA", "LATERAL"]] * 6
    for study, record in enumerate(records):
        for name, file in zip(record["image"], both(study), strict=True):
            wanted = np.asarray(render((folder / file).read_bytes()).image)
            assert np.array_equal(np.asarray(Image.open(out.parent / name).convert("RGB")), wanted)
        assert parse(record).captions == {"en": (f"no finding {study}",)}
    assert len({record["id"] for record in records}) == len({record["group"] for record in records}) == 6


def test_rows_of_pictures_are_put_together_by_the_study_of_the_files(
    hospital: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{file},no finding {study}" for study in range(6) for file in reversed(both(study))]
    write(hospital, "image,report", *rows[::2], *rows[1::2])
    made, out = tmp_path / "made", tmp_path / "made" / "records.jsonl"
    records = run(hospital, out, "--studies")
    assert_studies(hospital, out, records)
    assert pack_shards.main([str(out), "--out", str(made / "shards"), "--workers", "1"]) == 0
    text = "".join(capsys.readouterr())
    assert "6 records of 12 rows" in text
    assert "views of studies: 6 x PA, 6 x LATERAL\ntold by: 12 x ViewPosition" in text
    assert "prompt.max_images: 2" in text
    assert [word for word in PLANTED if word in text] == []
    assert leaks(made, tmp_path / "settings") == set()


@pytest.mark.parametrize("named", ["folder", "accession", "uid"])
def test_a_table_that_names_only_the_study(
    named: str, hospital: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = {"folder": "WANG_Xiaoming_{}", "accession": "ACC889977-{}", "uid": ROOT + ".{}.1"}[named]
    write(hospital, "study,report", *(f"{name.format(study)},no finding {study}" for study in range(6)))
    out = tmp_path / "made" / "records.jsonl"
    assert_studies(hospital, out, run(hospital, out, "--study-field", "study"))
    text = "".join(capsys.readouterr())
    assert ("no row names" in text) is False
    assert "read: image from the study that study names, answer from report" in text
    assert [word for word in PLANTED if word in text] == []
    assert leaks(tmp_path / "made", tmp_path / "settings") == set()


def test_a_folder_in_the_column_of_pictures(hospital: Path, tmp_path: Path) -> None:
    write(hospital, "image,report", *(f"WANG_Xiaoming_{study},no finding {study}" for study in range(6)))
    out = tmp_path / "made" / "records.jsonl"
    assert_studies(hospital, out, run(hospital, out, "--studies"))


def test_studies_without_a_picture_or_a_report_are_counted(
    hospital: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = ["ACC889977-0", "ACC889977-1", "ACC889977-77", "1"]
    rows = [f"{numbers[0]},clear", f"{numbers[1]},", f"{numbers[2]},clear", "1,clear", "WANG_Xiaoming_5,clear"]
    write(hospital, "accession,report", *rows)
    records = run(hospital, tmp_path / "made" / "r.jsonl", "--study-field", "accession")
    assert len(records) == 2
    text = "".join(capsys.readouterr())
    assert "left out: 1 x a study without any report, for instance\n    line 3" in text
    assert "left out: 1 x a study without any picture" in text
    assert "left out: 1 x a study's number that several studies of the folder have" in text
    assert "6, maybe of several patients; give the study's UID or its folder" in text
    assert "studies of the folder that no row names, or none by a number of its own: 3" in text
    assert [word for word in PLANTED if word in text] == []


def test_a_damaged_file_of_a_study_is_told(hospital: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frontal, _ = both(0)
    noise = RNG.integers(0, 256, 5000).astype(np.uint8).tobytes()
    (hospital / frontal).write_bytes(bytes(128) + b"DICM" + noise)
    (hospital / "WANG_Xiaoming_9").mkdir()
    (hospital / "WANG_Xiaoming_9" / "zeros.dcm").write_bytes(bytes(5000))
    write(hospital, "accession,report", "ACC889977-0,clear", ",clear")
    (record,) = run(hospital, tmp_path / "made" / "r.jsonl", "--study-field", "accession")
    assert record["views"] == ["LATERAL"]
    text = "".join(capsys.readouterr())
    assert "files of the folder that tell no study: 1 x a file whose name says DICOM" in text
    assert text.count("files of the folder that tell no study: 1 x DICOM") == 1
    assert "of these 1 lie in folders of studies that rows name, whose records may lack a view" in text
    assert "the row does not say which study; fill its cell" in text
    assert [word for word in PLANTED if word in text] == []


def test_a_folder_that_is_not_there_is_told_first(hospital: Path, tmp_path: Path) -> None:
    write(hospital, "accession,report", "ACC889977-0,clear")
    with pytest.raises(UserError, match="there is no such folder; give the one with the pictures"):
        run(hospital, tmp_path / "r.jsonl", "--study-field", "accession", "--images", str(tmp_path / "hospitl"))


def test_a_report_beside_one_picture_is_that_of_all(hospital: Path, tmp_path: Path) -> None:
    lateral, frontal = both(3)[::-1]
    write(hospital, "image,report", f"{lateral},clear", f"{frontal},")
    (record,) = run(hospital, tmp_path / "made" / "r.jsonl", "--studies")
    assert record["views"] == ["PA", "LATERAL"]
    assert record["captions"] == {"en": ["clear"]}


def test_which_views_are_kept_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, (position, tags) in enumerate(
        (("LL", {}), ("", {}), ("AP", {}), ("PA", {"SeriesNumber": 2}), ("PA", {"SeriesNumber": 1}), ("RLD", {}))
    ):
        (tmp_path / f"{number}.dcm").write_bytes(view(0, position, **tags))
    (tmp_path / "6.dcm").write_bytes(view(0, "LL")[:-200])
    write(tmp_path, "image,report", *(f"{number}.dcm,clear" for number in range(7)))

    def views(most: int) -> list[str]:
        (record,) = run(tmp_path, tmp_path / str(most) / "r.jsonl", "--studies", "--views", str(most))
        return record["views"]

    assert views(2) == ["PA", "LATERAL"]
    text = capsys.readouterr().out
    assert "not kept, since --views is 2: " in text
    assert "2 x LATERAL" not in text
    assert views(3) == ["PA", "LATERAL", "DECUBITUS"]
    assert views(9) == ["PA", "PA", "AP", "LATERAL", "DECUBITUS", "UNKNOWN"]
    assert "left out of their studies: 1 x a picture that cannot be decoded" in capsys.readouterr().out


def test_pictures_that_are_no_dicom_are_put_together_by_a_column(photos: Path, tmp_path: Path) -> None:
    write(tmp_path, "image,visit,report", *(f"{photos / f'{n}.png'},v{n // 2},clear {n // 2}" for n in range(6)))
    records = run(tmp_path, tmp_path / "made" / "r.jsonl", "--study-field", "visit")
    assert [record["id"] for record in records] == ["v0", "v1", "v2"]
    assert [len(record["image"]) for record in records] == [2, 2, 2]
    assert [record["captions"] for record in records] == [{"en": [f"clear {n}"]} for n in range(3)]


def test_two_patients_or_two_splits_are_no_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for study in range(3):
        (tmp_path / f"{study}.dcm").write_bytes(view(study, "PA"))
    rows = ["0.dcm,a,train,clear", "1.dcm,a,train,clear", "2.dcm,b,train,clear"]
    (tmp_path / "3.dcm").write_bytes(view(2, "LL"))
    write(tmp_path, "image,visit,split,report", *rows, "3.dcm,b,test,clear", "0.dcm,c,train,clear")
    records = run(tmp_path, tmp_path / "made" / "r.jsonl", "--study-field", "visit")
    assert len(records) == 1
    text = capsys.readouterr().out
    assert "left out: 2 x a study whose pictures are of several patients" in text
    assert "left out: 2 x a study whose rows are of several splits" in text


def test_a_folder_of_several_studies_is_no_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A patient's, whose studies are told by the files alone."""
    for number in range(3):
        place = tmp_path / ("P1" if number == 2 else "P0") / f"s{number}"
        place.mkdir(parents=True)
        for position in ("PA", "LL"):
            same = {**patient(0), "StudyInstanceUID": f"{ROOT}.{number}.1"}
            (place / position).write_bytes(view(0, position, **same))
    write(tmp_path, "image,report", "P0,clear one", "P0,effusion", "P1,clear three")
    (record,) = run(tmp_path, tmp_path / "made" / "r.jsonl", "--studies")
    assert record["captions"] == {"en": ["clear three"]}
    assert "left out: 2 x a folder with pictures of several studies" in capsys.readouterr().out
    write(tmp_path, "image,report", "P0/s0,clear one", "P0/s1,effusion", "P0,clear three")
    texts = [record["captions"]["en"] for record in run(tmp_path, tmp_path / "made" / "r.jsonl", "--studies")]
    assert texts == [["clear one"], ["effusion"]]


@pytest.mark.parametrize("second", ["P0", "P0/inner"])
def test_a_folder_with_two_reports_is_no_study_unless_a_column_says_so(
    second: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of pictures that tell no study themselves."""
    for number, name in enumerate(("P0/a.png", "P0/inner/b.png", "P1/a.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((photos / f"{number}.png").read_bytes())
    write(tmp_path, "path,report", "P0,clear one", f"{second},effusion", "P1,clear three", "P1,clear three")
    records = run(tmp_path, tmp_path / "made" / "r.jsonl", "--studies")
    assert [record["captions"]["en"] for record in records] == [["clear three"]] * 2
    text = capsys.readouterr().out
    assert "left out: 2 x a folder that several rows name with different reports or studies" in text
    assert "groups: none named for 2 records" in text
    write(tmp_path, "path,visit,report", "P0,v0,clear one", f"{second},v1,effusion", "P1,v3,clear three")
    (record,) = run(tmp_path, tmp_path / "made" / "r.jsonl", "--study-field", "visit")
    assert record["id"] == "v3"
    if second == "P0":
        write(tmp_path, "path,report", "P0,clear one", "P0,effusion", "P1,clear three", "P1,clear three")
        records = run(tmp_path, tmp_path / "made" / "r.jsonl", "--study-field", "path")
        assert [record["captions"]["en"] for record in records] == [["clear one", "effusion"], ["clear three"]]


def test_a_folder_beside_a_picture_in_it(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "st").mkdir()
    for number, name in enumerate(("st/a.png", "st/b.png")):
        (tmp_path / name).write_bytes((photos / f"{number}.png").read_bytes())
    write(tmp_path, "image_path,image_name,report", "st,a.png,clear", "st,b.png,effusion", "st/a.png,b.png,one")
    (record,) = run(tmp_path, tmp_path / "made" / "r.jsonl", "--studies")
    assert record["captions"] == {"en": ["one"]}
    assert "left out: 2 x a row that names a folder and, in another column, a picture in it" in capsys.readouterr().out


def test_a_folder_above_the_pictures_is_no_study(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "h" / "st").mkdir(parents=True)
    (tmp_path / "h" / "st" / "a.png").write_bytes((photos / "0.png").read_bytes())
    write(tmp_path, "image,report", "..,one", "/,two", ".,three", "st/..,four", "st,five")
    (record,) = run(tmp_path, tmp_path / "made" / "r.jsonl", "--studies", "--images", str(tmp_path / "h"))
    assert record["captions"] == {"en": ["five"]}


def test_whose_patient_is_not_known_is_told(
    hospital: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(hospital, "image,report", "WANG_Xiaoming_0,clear")
    run(hospital, tmp_path / "made" / "r.jsonl", "--studies")
    write(tmp_path, "image,patient,report", f"{photos / '0.png'},P0,clear")
    run(tmp_path, tmp_path / "made" / "s.jsonl", "--studies")
    assert "groups: none named" not in capsys.readouterr().out
    write(tmp_path, "image,visit,report", f"{photos / '0.png'},v0,clear")
    run(tmp_path, tmp_path / "made" / "t.jsonl", "--study-field", "visit")
    assert "groups: none named for 1 records" in capsys.readouterr().out


def test_a_question_about_a_study_keeps_its_own_record(hospital: Path, tmp_path: Path) -> None:
    rows = [f"WANG_Xiaoming_0,{question},{answer}" for question, answer in (("heart?", "normal"), ("bones?", "intact"))]
    write(hospital, "image,question,answer", *rows)
    records = run(hospital, tmp_path / "made" / "r.jsonl", "--studies")
    assert [record["views"] for record in records] == [["PA", "LATERAL"]] * 2
    assert [record["turns"][0]["text"] for record in records] == ["heart?", "bones?"]
    assert len({record["group"] for record in records}) == 1


def test_where_questions_place_pictures_nothing_is_moved(hospital: Path, tmp_path: Path) -> None:
    lateral, frontal = (str(hospital / file) for file in both(0)[::-1])
    turns = [{"role": "user", "text": "<image> and <image>?"}, {"role": "assistant", "text": "two"}]
    (hospital / "reports.csv").write_text(json.dumps({"image": [lateral, frontal], "turns": turns}) + "\n", "utf-8")
    (record,) = run(hospital, tmp_path / "made" / "r.jsonl", "--studies", "--format", "jsonl", "--views", "1")
    assert record["views"] == ["LATERAL", "PA"]


@pytest.mark.parametrize(
    ("columns", "options", "reason"),
    [
        ("study,report", [], "Where rows name studies instead: --study-field COLUMN --images FOLDER"),
        ("study,report", ["--studies"], "Name it with --image-field, or with --study-field"),
        ("image,report", ["--study-field", "visit"], "the source has no column 'visit'"),
        ("image,report", ["--studies", "--frame", "each"], "give one of them"),
        ("image,report", ["--part-field", "findings=report"], "--part-field is for --report-part"),
    ],
)
def test_what_does_not_go_together_is_refused(columns: str, options: list[str], reason: str, tmp_path: Path) -> None:
    write(tmp_path, columns, "a.dcm,clear")
    with pytest.raises(UserError, match=reason):
        run(tmp_path, tmp_path / "made" / "r.jsonl", *options)
    assert not (tmp_path / "made" / "r.jsonl").exists()
