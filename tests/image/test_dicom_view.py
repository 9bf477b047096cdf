"""Which view a picture shows, by the tags that hospitals fill."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_dicom import make_dicom
from pydicom import Dataset, dcmread, uid
from pydicom.sequence import Sequence
from pydicom.sr.codedict import Collection, codes

from vglm_train.image import ImageError
from vglm_train.image.dicom.header import HEAD, read_tags
from vglm_train.image.dicom.view import CODES, POSITIONS, READ, TAGS, view_of


def code(value: str) -> dict[str, Any]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "WANG"
    return {"ViewCodeSequence": Sequence([item])}


@pytest.mark.parametrize(
    ("tags", "view", "told_by"),
    [
        ({"ViewPosition": "PA"}, "PA", "ViewPosition"),
        ({"ViewPosition": "ap "}, "AP", "ViewPosition"),
        ({"ViewPosition": "LL"}, "LATERAL", "ViewPosition"),
        ({"ViewPosition": "RLD"}, "DECUBITUS", "ViewPosition"),
        ({"ViewPosition": "WANG", "SeriesDescription": "Chest PA"}, "PA", "SeriesDescription"),
        (code("399348003"), "AP", "ViewCodeSequence"),
        (code("R-10236"), "LATERAL", "ViewCodeSequence"),
        ({"PatientOrientation": ["L", "F"]}, "FRONTAL", "PatientOrientation"),
        ({"PatientOrientation": ["A", "F"]}, "LATERAL", "PatientOrientation"),
        ({"PatientOrientation": ["A", "H"], "ViewPosition": "PA"}, "PA", "ViewPosition"),
        ({"SeriesDescription": "W034 Thorax lat."}, "LATERAL", "SeriesDescription"),
        ({"SeriesDescription": "胸部正位"}, "FRONTAL", "SeriesDescription"),
        ({"SeriesDescription": "胸部后前位"}, "PA", "SeriesDescription"),
        ({"SeriesDescription": "胸部侧位"}, "LATERAL", "SeriesDescription"),
        ({"SeriesDescription": "PA_frontal"}, "PA", "SeriesDescription"),
        ({"SeriesDescription": "Chest PA and lateral"}, "UNKNOWN", None),
        ({"SeriesDescription": "胸部正侧位"}, "UNKNOWN", None),
        ({"SeriesDescription": "WANG Xiaoming, laterality unclear, CAPTAIN"}, "UNKNOWN", None),
        ({"PatientOrientation": ["A", "R"]}, "UNKNOWN", None),
        ({"PatientOrientation": ["A", "FR"], "Modality": "MG"}, "UNKNOWN", None),
        ({"ViewPosition": "MLO", "PatientOrientation": ["A", "FR"], "Modality": "MG"}, "MLO", "ViewPosition"),
        ({}, "UNKNOWN", None),
    ],
)
def test_the_view_of_a_picture(tags: dict[str, Any], view: str, told_by: str | None, tmp_path: Path) -> None:
    plain = {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "王^小明", "ViewPosition": ""}
    (tmp_path / "a").write_bytes(make_dicom(np.zeros((4, 4), np.uint8), {**plain, **tags}))
    assert view_of(read_tags(tmp_path / "a", READ)) == (view, told_by)


def test_codes_mean_what_dicom_says() -> None:
    names = {
        "PA": ["PosteroAnterior"], "AP": ["AnteroPosterior"], "FRONTAL": ["Frontal"],
        "LATERAL": ["LateralProjection", "LeftLateral", "RightLateral"],
        "OBLIQUE": [
            "ObliqueProjection", "LeftAnteriorOblique", "RightAnteriorOblique", "LeftOblique", "RightOblique",
            "LateralOblique", "LeftPosteriorOblique", "RightPosteriorOblique", "FrontalOblique",
            "PosteroAnteriorOblique", "AnteroPosteriorOblique",
        ],
        "CC": ["CranioCaudal"], "MLO": ["MedioLateralObliqueProjection"],
        "ML": ["MedioLateralProjection", "LateralMedial"],
    }  # fmt: skip
    assert isinstance(codes.CID4010, Collection)
    of_dicom = {getattr(codes.CID4010, name).value: view for view, each in names.items() for name in each}
    assert {value: view for value, view in CODES.items() if not value.startswith("R-")} == of_dicom
    assert set(CODES.values()) <= set(POSITIONS.values())


def test_tags_are_read_without_the_pixels(tmp_path: Path) -> None:
    values = np.zeros((1200, 1200), np.uint8)
    path = tmp_path / "a"
    for syntax in (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian):
        whole = make_dicom(values, {"ViewPosition": "PA"}, syntax)
        path.write_bytes(whole)
        assert view_of(read_tags(path, TAGS)).name == "PA"
    long = make_dicom(values, {"ViewPosition": "PA", "EncapsulatedDocument": bytes(2 * HEAD)})
    assert long.index(b"PA") < HEAD < len(long)
    path.write_bytes(long)
    assert view_of(read_tags(path, TAGS)).name == "PA"


def test_a_file_without_pixels_has_no_view(tmp_path: Path) -> None:
    dataset = dcmread(io.BytesIO(make_dicom(np.zeros((4, 4), np.uint8))))
    del dataset.PixelData
    dataset.save_as(tmp_path / "a")
    with pytest.raises(ImageError, match="DICOM without pixels"):
        read_tags(tmp_path / "a", TAGS)
    (tmp_path / "b").write_bytes(make_dicom(np.zeros((4, 4), np.uint8))[:300])
    with pytest.raises(ImageError):
        read_tags(tmp_path / "b", TAGS)
