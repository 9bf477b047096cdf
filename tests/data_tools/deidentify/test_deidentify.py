"""A folder that goes elsewhere has the same pixels, and nothing of the patient."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_dicom import PLANTED, ROOT, leaks, lut, make_dicom, patient
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset, dcmread, uid
from pydicom.encaps import encapsulate, get_frame
from pydicom.sequence import Sequence

from data_tools.deidentify import __main__ as deidentify
from vglm_train.errors import UserError
from vglm_train.image.dicom import render

RNG = np.random.default_rng(4)


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a salt."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))


def commented(data: bytes) -> bytes:
    """A file of one JPEG-LS frame, with a comment within it."""
    dataset = dcmread(io.BytesIO(data))
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    text = b"WANG Xiaoming"
    dataset.PixelData = encapsulate([frame[:2] + b"\xff\xfe" + (2 + len(text)).to_bytes(2) + text + frame[2:]])
    out = io.BytesIO()
    dataset.save_as(out)
    return out.getvalue()


def grey(bits: int = 12, shape: tuple[int, ...] = (40, 50)) -> Any:
    return RNG.integers(0, 2**bits, shape).astype(np.uint16 if bits > 8 else np.uint8)


def files() -> dict[str, bytes]:
    """Of two patients, of every kind."""
    first, second = patient(0), patient(1)
    window = {
        "WindowCenter": [2000, 900],
        "WindowWidth": ["1000", "300"],
        "RescaleSlope": "1.5",
        "RescaleIntercept": -9,
    }
    frame, voi = Dataset(), Dataset()
    voi.WindowCenter, voi.WindowWidth, voi.WindowCenterWidthExplanation = 100, 300, "WANG"
    content = Dataset()
    content.FrameAcquisitionDateTime = "20240517142233.5"
    frame.FrameVOILUTSequence, frame.FrameContentSequence = Sequence([voi]), Sequence([content])
    signed = (grey().astype(np.int32) - 2048).astype(np.int16)
    odd = {"Modality": "WANG", "BodyPartExamined": "MRN-4711-Q", "ViewPosition": "AP", "PatientOrientation": ["L", "F"]}
    overlay = grey()
    overlay[::2] |= np.uint16(0xF000)
    return {
        "grey": make_dicom(grey(), {**first, **window, **odd}, bits=12),
        "signed": make_dicom(signed, first, bits=12),
        "voi": make_dicom(grey(), {**first, **lut("VOILUTSequence", np.arange(4096)[::-1], 0, 12)}, bits=12),
        "colour": make_dicom(grey(8, (40, 50, 3)), second),
        "frames": make_dicom(
            grey(shape=(2, 40, 50)),
            {**second, "NumberOfFrames": 2, "PerFrameFunctionalGroupsSequence": Sequence([frame, frame])},
            bits=12,
        ),
        "big": make_dicom(grey(), second, uid.ExplicitVRBigEndian, 12),
        "implicit": make_dicom(grey(), second, uid.ImplicitVRLittleEndian, 12),
        "jpeg-ls": commented(make_dicom(grey(8), second, uid.JPEGLSLossless, compressed=True)),
        "jpeg 2000": make_dicom(grey(), {**second, "PatientID": ""}, uid.JPEG2000Lossless, 12, True),
        "overlay": make_dicom(overlay, second, bits=12),
        "padded": make_dicom(grey(8, (1, 4)), second),
    }


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    folder = tmp_path / "hospital" / "WANG"
    folder.mkdir(parents=True)
    for name, data in files().items():
        (folder / f"MRN-4711-Q {name}").write_bytes(data)
    (folder / "report.txt").write_text("WANG Xiaoming")
    (folder / "broken.dcm").write_bytes(files()["grey"][:-50])
    plan = dcmread(io.BytesIO(files()["grey"]))
    del plan.PixelData
    plan.save_as(folder / "plan.dcm")
    (folder / "burned.dcm").write_bytes(make_dicom(grey(), {"BurnedInAnnotation": "YES"}))
    return tmp_path / "hospital"


def frames_of(data: bytes) -> list[bytes]:
    """The pixels of each frame."""
    return [render(data, frame=number).image.tobytes() for number in range(render(data).header.frames)]


def run(hospital: Path, out: Path, *options: str) -> dict[str, Any]:
    assert deidentify.main([str(hospital), "--out", str(out), "--workers", "1", *options]) == 0
    report: dict[str, Any] = json.loads((out / "report.json").read_text("utf-8"))
    return report


def test_nothing_of_a_patient_is_left_and_the_pixels_are_the_same(hospital: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "others"
    report = run(hospital, out)
    text = "".join(capsys.readouterr())
    assert leaks(out) == set()
    assert [word for word in PLANTED if word in text] == []
    made = {path: path.read_bytes() for path in out.rglob("*.dcm")}
    assert report["files"] == len(made) == 11
    assert report["left_out"] == {
        "no DICOM": 1,
        "DICOM that is cut short": 1,
        "DICOM without pixels": 1,
        "text is burned into its pixels by its own tag, Burned In Annotation": 1,
    }
    found = [frames_of(data) for data in made.values()]
    for path in (hospital / "WANG").glob("MRN*"):
        assert frames_of(path.read_bytes()) in found, path.name
    values = [np.frombuffer(dcmread(path).PixelData, np.uint16) for path in made if dcmread(path).BitsAllocated == 16]
    assert not any((each[each < 0x8000] >> 12).any() for each in values), "an overlay in unused bits"
    for tag in ("(0008,0020) StudyDate", "(0019,xx01) private", "(0028,1055) WindowCenterWidthExplanation"):
        assert report["dropped_tags"][tag] >= 1
    assert "PatientID" in report["replaced_by_hashes"]


def test_what_belongs_together_stays_together(hospital: Path, tmp_path: Path) -> None:
    run(hospital, tmp_path / "others")
    made = [dcmread(path) for path in (tmp_path / "others").rglob("*.dcm")]
    by_patient: dict[str, set[str]] = {}
    for dataset in made:
        by_patient.setdefault(str(dataset.PatientID), set()).add(str(dataset.StudyInstanceUID))
        assert str(dataset.PatientName) == dataset.PatientID
        assert dataset.PatientIdentityRemoved == "YES"
        assert dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID
        assert not str(dataset.StudyInstanceUID).startswith(ROOT)
    assert sorted(len(studies) for studies in by_patient.values()) == [1, 1, 1], "one file names no patient"
    grey = next(each for each in made if each.get("ViewPosition") == "AP")
    assert "Modality" not in grey, "a word that is none of DICOM's"
    assert "BodyPartExamined" not in grey
    assert list(grey.PatientOrientation) == ["L", "F"]
    assert [float(each) for each in grey.WindowWidth] == [1000, 300]


def test_the_same_salt_gives_the_same_folder(hospital: Path, tmp_path: Path) -> None:
    def bytes_of(name: str, *options: str) -> dict[str, bytes]:
        out = tmp_path / name
        run(hospital, out, *options)
        return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.dcm")}

    assert bytes_of("a") == bytes_of("b", "--workers", "2")
    assert bytes_of("c", "--salt", str(tmp_path / "salt")).keys() & bytes_of("d").keys() == set()


def test_burned_in_text(tmp_path: Path, capsys: Any) -> None:
    image = Image.new("L", (512, 400), 40)
    ImageDraw.Draw(image).text((5, 5), "WANG XIAOMING 1961", fill=255, font=ImageFont.load_default(18))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.dcm").write_bytes(make_dicom(np.asarray(image), {"BurnedInAnnotation": "YES"}))
    with pytest.raises(UserError, match="no file could be written; left out: 1 x text is burned into"):
        run(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = run(tmp_path / "in", tmp_path / "out", "--keep-burned-in")
    (name,) = report["corner_text"]["files"]
    assert (tmp_path / "out" / name).is_file()
    assert "this is a guess" in capsys.readouterr().out


def test_a_folder_that_cannot_be_is_refused(hospital: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for folder, out, reason in (
        (hospital, tmp_path / "full", "is there already"),
        (hospital, hospital / "new", "one is within the other"),
        (tmp_path / "none", tmp_path / "new", "no such folder"),
        (tmp_path / "empty", tmp_path / "new", "no files in it"),
    ):
        with pytest.raises(UserError, match=reason):
            run(folder, out)


def test_files_that_are_left_out_are_named_on_demand(hospital: Path, tmp_path: Path, capsys: Any) -> None:
    run(hospital, tmp_path / "others", "--name-files")
    assert "broken.dcm: DICOM that is cut short" in capsys.readouterr().err
