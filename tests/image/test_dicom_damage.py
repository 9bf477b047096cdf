"""DICOM files that are broken, odd or too large: each is named, with no word of the patient, and nothing crashes."""

import contextlib
import io
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from made_dicom import PLANTED, inflating, make_dicom, many_elements
from pydicom import dcmread, uid
from pydicom.encaps import encapsulate, get_frame

from vglm_train.errors import UserError
from vglm_train.image import ImageError, ImageLimits, check_image, open_image
from vglm_train.image.dicom import render

RNG = np.random.default_rng(6)
WHEEL = Path(pydicom.__file__).parent / "data"
STORED = np.arange(6, dtype=np.uint8).reshape(2, 3)


def changed(**tags: Any) -> bytes:
    """A file of 40 x 36 values of 12 bits with other tags; None: without the tag."""
    dataset = dcmread(io.BytesIO(make_dicom(RNG.integers(0, 4096, (40, 36)).astype(np.uint16), bits=12)))
    for name, value in tags.items():
        delattr(dataset, name) if value is None else setattr(dataset, name, value)
    out = io.BytesIO()
    dataset.save_as(out)
    return out.getvalue()


def encoded(pixels: bytes, syntax: str) -> bytes:
    dataset = dcmread(io.BytesIO(changed()))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([pixels])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    out = io.BytesIO()
    dataset.save_as(out)
    return out.getvalue()


def jpeg2000() -> bytes:
    data = make_dicom(RNG.integers(0, 4096, (40, 36)).astype(np.uint16), {}, uid.JPEG2000Lossless, 12, True)
    return get_frame(dcmread(io.BytesIO(data)).PixelData, 0, number_of_frames=1)


BROKEN: dict[str, tuple[bytes, str]] = {
    "no pixels": (changed(PixelData=None), "without pixels .Secondary Capture Image Storage.: leave it out"),
    "wrong length": (changed(Rows=41), "cut short .2,880 of 2,952 bytes of pixels"),
    "0 x 0": (changed(Rows=0, Columns=0), "without pixels: 0 x 0"),
    "high bit": (changed(HighBit=15), "do not begin at their lowest bit"),
    "no bits": (changed(BitsAllocated=None), "damaged"),
    "three samples": (changed(SamplesPerPixel=3), "cut short"),
    "odd samples": (changed(SamplesPerPixel=2, Rows=20), "cannot be decoded"),
    "cut": (make_dicom(STORED)[:-4], "cut short|damaged"),
    "cut in its header": (make_dicom(STORED)[:400], "without pixels|damaged"),
    "window of 0": (changed(WindowCenter=1, WindowWidth=0), "window cannot be used"),
    "window function": (changed(WindowCenter=1, WindowWidth=9, VOILUTFunction="CUBIC"), "window cannot be used"),
    "fragment": (encoded(jpeg2000()[:-40], uid.JPEG2000Lossless), "pixels are cut short .JPEG 2000"),
    "RLE": (encoded(b"\1" + bytes(70), uid.RLELossless), "cannot be decoded .RLE Lossless"),
    "no frame": (encoded(b"\xff\xd8", uid.JPEGLSLossless), "pixels are cut short .JPEG-LS"),
    "noise": (encoded(b"\xff\xd8 noise \xff\xd9", uid.JPEGLossless), "cannot be decoded .JPEG Lossless"),
    "video": (encoded(b"0000", uid.MPEG4HP41), "not read .MPEG-4 AVC/H.264 High Profile"),
    "own syntax": (encoded(b"0000", "1.2.3.4711"), "a transfer syntax that DICOM does not know"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named_and_no_patient_with_it(
    name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    data, reason = BROKEN[name]
    with caplog.at_level(logging.DEBUG), pytest.raises(ImageError, match=reason) as error:
        open_image(data)
    captured = capfd.readouterr()
    said = f"{error.value.reason} {caplog.text} {captured.out} {captured.err}"
    assert [word for word in PLANTED if word in said] == []


@pytest.mark.parametrize(
    "tags",
    [
        {"SpecificCharacterSet": "NONSENSE"},
        {"SpecificCharacterSet": "GB18030", "PatientName": "王^小明"},
        {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "王^小明"},
        {"StudyDate": "WANG", "PatientBirthDate": "19610203-Xiaoming"},
        {"WindowCenter": "", "WindowWidth": ""},
        {"PatientOrientation": ""},
    ],
    ids=["no charset", "GB18030", "UTF-8", "no date", "empty window", "empty orientation"],
)
def test_odd_tags_do_not_matter_and_are_not_quoted(
    tags: dict[str, Any], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydicom, which writes them here
        data = make_dicom(STORED, tags)
    capfd.readouterr()
    with caplog.at_level(logging.DEBUG):
        assert np.array_equal(np.asarray(render(data).image)[..., 0], STORED)
    captured = capfd.readouterr()
    assert [word for word in PLANTED if word in caplog.text + captured.out + captured.err] == []


def test_limits() -> None:
    data = make_dicom(np.zeros((3, 40, 30), np.uint8), {"NumberOfFrames": 3})
    for limits, reason in (
        (ImageLimits(pixels=1199), "40"),
        (ImageLimits(side=39), "40"),
        (ImageLimits(frames=2), "2"),
    ):
        with pytest.raises(ImageError, match=reason) as error:
            check_image(data, limits)
        assert error.value.cause == "bomb"


def test_a_frame_that_claims_to_be_larger_is_not_decoded() -> None:
    dataset = dcmread(io.BytesIO(encoded(jpeg2000(), uid.JPEG2000Lossless)))
    dataset.Rows = 39
    out = io.BytesIO()
    dataset.save_as(out)
    with pytest.raises(ImageError, match="of another size than it says: 36 x 40, not 36 x 39"):
        open_image(out.getvalue())


def test_a_deflated_bomb_and_a_million_elements_are_refused() -> None:
    for each, reason in ((inflating(), "inflates to more than"), (many_elements(), "elements")):
        with pytest.raises(ImageError, match=reason) as error:
            check_image(each, ImageLimits())
        assert error.value.cause == "bomb"


def test_a_decoder_that_ends_its_process_takes_nobody_along() -> None:
    whole = (WHEEL / "test_files" / "SC_rgb_jpeg_gdcm.dcm").read_bytes()
    start = whole.index(b"\xff\xd8\xff")
    for place, value in ((37, 124), (22, 132), (17, 198)):
        damaged = whole[: start + place] + bytes([value]) + whole[start + place + 1 :]
        with pytest.raises(ImageError, match=r"cannot be decoded \(JPEG Lossless"):
            open_image(damaged)
        assert open_image(whole).size == (100, 100)


def test_a_jp2_box_without_a_size_ends() -> None:
    box = b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(4) + b"ftyp" + bytes(40) + b"\xff\xd9"
    with pytest.raises(ImageError, match=r"pixels are damaged \(JPEG 2000"):
        open_image(encoded(box, uid.JPEG2000Lossless))


@pytest.mark.parametrize(
    "name", ["693_J2KI", "JPEGLSNearLossless_16", "MR_small_RLE", "SC_rgb_dcmtk_+eb+cr", "CT_small"]
)
def test_whatever_is_damaged_only_an_image_error_comes(name: str) -> None:
    whole, random = (WHEEL / "test_files" / f"{name}.dcm").read_bytes(), np.random.default_rng(len(name))
    for _ in range(60):
        data = bytearray(whole)
        for place in random.integers(0, min(len(data), 3000), random.integers(1, 6)):
            data[place] = random.integers(0, 256)
        with contextlib.suppress(ImageError):
            check_image(bytes(data), ImageLimits())
            open_image(bytes(data))


def test_without_pydicom_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_dicom(STORED)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r'pip install "vglm_train\[dicom\]"'):
        open_image(data)
