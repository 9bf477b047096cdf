"""A hospital's folder becomes records and shards in which no patient is named."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_dicom import PLANTED, leaks, make_dicom, patient
from PIL import Image, ImageDraw, ImageFont

from data_tools.convert import __main__ as convert
from data_tools.pack_shards import __main__ as pack_shards
from vglm_train.config.data import Holdout, Source
from vglm_train.data.record import content_id, parse
from vglm_train.data.tables.holdout import held
from vglm_train.data.tables.table import Table
from vglm_train.errors import UserError
from vglm_train.image.dicom import render

RNG = np.random.default_rng(2)
FOLDER = "WANG_Xiaoming_MRN-4711-Q"  # as hospitals name folders


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a salt."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Twelve pictures of six patients in files with and without an ending, and a table of reports."""
    folder = tmp_path / "hospital"
    (folder / FOLDER).mkdir(parents=True)
    rows = ["accession,patient,image,report"]
    for number in range(12):
        name = f"{FOLDER}/IM{number}{'.dcm' if number % 2 else ''}"
        values = RNG.integers(0, 4096, (24, 30)).astype(np.uint16)
        tags = {**patient(number // 2), "WindowCenter": 2048, "WindowWidth": 3000}
        (folder / name).write_bytes(make_dicom(values, tags, bits=12))
        rows.append(f"ACC889977{number},MRN-4711-Q{number // 2},{name},no finding in lobe {number}")
    (folder / "reports.csv").write_text("\n".join(rows) + "\n", "utf-8")
    return folder


def records_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


def run(folder: Path, out: Path, *options: str) -> list[dict[str, Any]]:
    table = folder / "reports.csv"
    assert convert.main([str(table), "--images", str(folder), "--out", str(out), *options]) == 0
    return records_of(out)


def test_from_a_hospitals_folder_to_shards(
    hospital: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    made, out = tmp_path / "made", tmp_path / "made" / "records.jsonl"
    records = run(hospital, out, "--id-field", "accession")
    assert pack_shards.main([str(out), "--out", str(made / "shards"), "--workers", "1"]) == 0
    text = "".join(capsys.readouterr()) + caplog.text
    assert [word for word in PLANTED if word in text] == []
    assert leaks(made, tmp_path / "settings") == set()

    assert len({record["id"] for record in records}) == 12
    groups = [record["group"] for record in records]
    assert groups[::2] == groups[1::2]
    assert len(set(groups)) == 6
    first = (hospital / FOLDER / "IM0").read_bytes()
    png = made / records[0]["image"]
    assert np.array_equal(np.asarray(Image.open(png).convert("RGB")), np.asarray(render(first).image))
    assert records[0]["image_id"] == content_id(png.read_bytes())
    assert records[0]["window"] == "file"
    assert parse(records[0]).captions == {"en": ("no finding in lobe 0",)}

    report = json.loads((made / "records.dicom.json").read_text("utf-8"))
    assert report["dicom_files"] == 12
    for tag in ("(0010,0010) PatientName", "(0008,0020) StudyDate", "(0019,xx01) private", "(7FE0,0010) PixelData"):
        assert report["dropped_tags"][tag] == 12
    assert report["pixels"] == {"DICOM, window as the file says": 12}
    assert "43 tags dropped" not in text.replace(f"{len(report['dropped_tags'])} tags dropped", "")


def test_patients_are_held_out_whole(hospital: Path, tmp_path: Path) -> None:
    out = tmp_path / "records.jsonl"
    (tmp_path / "salt").write_bytes(bytes(32))  # the same patients are held out each time
    run(hospital, out, "--salt", str(tmp_path / "salt"))
    table = Table(Source(name="records", table=str(out)))
    kept = held(table, table.usable(), Holdout(share=0.4, by="group"))
    groups = np.array([record["group"] for record in records_of(out)])
    assert 0 < kept.sum() < 12
    assert set(groups[kept]) & set(groups[~kept]) == set()


def test_the_salt_decides_the_hashes(hospital: Path, tmp_path: Path) -> None:
    def groups(name: str, *options: str) -> list[str]:
        return [record["group"] for record in run(hospital, tmp_path / name / "r.jsonl", *options)]

    own = groups("a")
    assert groups("b") == own
    assert set(groups("c", "--salt", str(tmp_path / "other_salt"))) & set(own) == set()
    column = groups("d", "--group-field", "patient")
    assert len(set(column)) == 6
    assert column != own, "the column that is named, hashed as a group and not as a patient"


def test_a_text_that_names_the_patient_is_left_out(hospital: Path, tmp_path: Path, capsys: Any) -> None:
    texts = [
        "Wang Xiaoming, seen again",
        "Patient Xiaoming Wang",
        "王小明胸片",
        "Q: MRN-4711-Q2?",
        "seen 2024-05-17",
        "17.5.2024 seen",
        "2024年5月17日胸片",
        "born 02/03/1961",
        "acc. ACC889977.",
        "long and grey: 120240517 mm",
    ]
    rows = [f"{FOLDER}/IM{n}{'.dcm' if n % 2 else ''},{json.dumps(t).encode().decode()}" for n, t in enumerate(texts)]
    rows[2] = f"{FOLDER}/IM2,王小明胸片"
    rows[3] = f"{FOLDER}/IM3.dcm,Q: MRN-4711-Q1?"
    rows[6] = f"{FOLDER}/IM6,2024年5月17日胸片"
    (hospital / "reports.csv").write_text("image,report\n" + "\n".join(rows) + "\n", "utf-8")
    records = run(hospital, tmp_path / "out" / "r.jsonl")
    assert [record["captions"]["en"] for record in records] == [[texts[-1]]]
    text = "".join(capsys.readouterr())
    pictures = [path.stem for path in (tmp_path / "out" / "r.pictures").rglob("*.png")]
    assert pictures == [f"{records[0]['image_id']:016x}"], "none of a row that is left out"
    assert "left out: 9 x a text that names its DICOM's patient, a doctor, the hospital, a number or a date" in text
    assert [word for word in PLANTED if word in text] == []


def test_records_inside_the_hospitals_folder_are_refused(hospital: Path) -> None:
    with pytest.raises(UserError, match="Give --out in another folder"):
        run(hospital, hospital / "made" / "r.jsonl")
    assert not (hospital / "made").exists()


def test_frames_and_windows_of_choice(tmp_path: Path) -> None:
    values = RNG.integers(-1000, 1000, (3, 20, 20)).astype(np.int16)
    tags = {"NumberOfFrames": 3, "Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": 0}
    data = make_dicom(values, tags)
    folder = tmp_path / "hospital"
    folder.mkdir()
    (folder / "cine.dcm").write_bytes(data)
    (folder / "reports.csv").write_text("image,report,id\ncine.dcm,a chest,ACC889977\n", "utf-8")

    def pictures(name: str, *options: str) -> list[dict[str, Any]]:
        return run(folder, tmp_path / name / "r.jsonl", *options)

    each = pictures("each", "--frame", "each", "--window", "lung")
    assert [record["frame"] for record in each] == [1, 2, 3]
    assert len({record["id"] for record in each}) == 3
    assert len({record["group"] for record in each}) == 1
    assert {record["window"] for record in each} == {"lung"}
    assert leaks(tmp_path / "each") == set()
    middle, third = pictures("middle", "--frame", "middle"), pictures("third", "--frame", "3", "--window=-600/1500")
    assert (middle[0]["frame"], third[0]["frame"]) == (2, 3)
    assert third[0]["image_id"] == each[2]["image_id"]
    assert pictures("first")[0]["frame"] == 1
    with pytest.raises(UserError, match="no frame 4"):
        pictures("fourth", "--frame", "4")


@pytest.mark.parametrize(("option", "value"), [("--window", "liver"), ("--frame", "0"), ("--frame", "last")])
def test_a_wrong_option_says_what_there_is(option: str, value: str, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        convert.main([str(tmp_path / "a.csv"), "--out", str(tmp_path / "r.jsonl"), option, value])
    assert f"argument {option}: {value!r}" in capsys.readouterr().err


def test_broken_files_are_told_by_their_row(hospital: Path, tmp_path: Path, capsys: Any) -> None:
    (hospital / FOLDER / "IM0").write_bytes((hospital / FOLDER / "IM0").read_bytes()[:-100])
    (hospital / FOLDER / "IM1.dcm").unlink()
    (hospital / FOLDER / "IM2").unlink()
    assert len(run(hospital, tmp_path / "out" / "r.jsonl")) == 9
    text = "".join(capsys.readouterr())
    assert "line 2: " in text
    assert "DICOM that is cut short" in text
    assert "line 3: the DICOM file that the row names" in text
    assert "line 4: the DICOM file that the row names" in text
    assert [word for word in PLANTED if word in text] == []


def test_text_in_pixels_is_told(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "hospital"
    folder.mkdir()
    image = Image.new("L", (512, 400), 40)
    ImageDraw.Draw(image).text((5, 5), "WANG XIAOMING 1961", fill=255, font=ImageFont.load_default(18))
    (folder / "a.dcm").write_bytes(make_dicom(np.asarray(image)))
    (folder / "b.dcm").write_bytes(make_dicom(np.full((400, 512), 40, np.uint8), {"BurnedInAnnotation": "YES"}))
    (folder / "reports.csv").write_text("image,report\na.dcm,one\nb.dcm,two\n", "utf-8")
    records = run(folder, tmp_path / "out" / "r.jsonl")
    report = json.loads((tmp_path / "out" / "r.dicom.json").read_text("utf-8"))
    assert report["burned_in_annotation_yes"] == 1
    assert report["corner_text"]["pictures"] == [records[0]["id"]]
    assert "a guess" in report["corner_text"]["told_by"]
    text = capsys.readouterr().out
    assert "text seems to be burned into 1 pictures; this is a guess" in text
    assert "burned into 1 by their own tag" in text


def test_pictures_inside_a_table_and_beside_dicom(tmp_path: Path, photos: Path) -> None:
    datasets = pytest.importorskip("datasets")
    values = RNG.integers(0, 4096, (16, 16)).astype(np.uint16)
    rows = {"image": [{"bytes": make_dicom(values, bits=12), "path": None}], "text": ["inside"]}
    features = datasets.Features({"image": datasets.Image(decode=False), "text": datasets.Value("string")})
    data = datasets.Dataset.from_dict(rows, features=features)
    (tmp_path / "t").mkdir()
    data.to_parquet(tmp_path / "t" / "train.parquet")
    out = tmp_path / "out" / "r.jsonl"
    assert convert.main([str(tmp_path / "t"), "--out", str(out)]) == 0
    assert leaks(out.parent) == set()
    folder = tmp_path / "hospital"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(make_dicom(values, bits=12))
    (folder / "reports.csv").write_text(f"image,report\na.dcm,one\n{photos / '0.png'},two\n", "utf-8")
    mixed = run(folder, tmp_path / "mixed" / "r.jsonl")
    assert ["window" in record for record in mixed] == [True, False]
    assert mixed[0]["image_id"] == records_of(out)[0]["image_id"]
    assert os.path.samefile(tmp_path / "mixed" / mixed[1]["image"], photos / "0.png")


def test_other_pictures_in_private(tmp_path: Path) -> None:
    """Their names, comments and places stay behind, and so do the names that rows have."""
    folder = tmp_path / "hospital" / FOLDER
    folder.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x010E] = "WANG Xiaoming"  # ImageDescription
    grey = Image.fromarray(RNG.integers(0, 256, (20, 24)).astype(np.uint8))
    grey.save(folder / "MRN-4711-Q1.jpg", exif=exif)
    grey.save(folder / "MRN-4711-Q2.png", pnginfo=None)
    rows = [
        f"ACC8899771,MRN-4711-Q1,{FOLDER}/MRN-4711-Q1.jpg,one",
        f"ACC8899772,MRN-4711-Q1,{FOLDER}/MRN-4711-Q2.png,two",
    ]
    (tmp_path / "hospital" / "reports.csv").write_text("\n".join(["id,patient,image,report", *rows]) + "\n", "utf-8")
    out = tmp_path / "out" / "r.jsonl"
    records = run(tmp_path / "hospital", out, "--private", "--source", "reports")
    assert leaks(out.parent) == set()
    assert records[0]["group"] == records[1]["group"]
    assert "window" not in records[0]
    shown = np.asarray(Image.open(out.parent / records[1]["image"]))
    assert np.array_equal(shown, np.asarray(grey))
