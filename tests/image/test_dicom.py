"""DICOM files become the pixels that pydicom itself makes of them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from made_dicom import lut, make_dicom
from numpy.typing import NDArray
from pydicom import Dataset, dcmread, uid
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.sequence import Sequence

from vglm_train.file_kind import kind_of
from vglm_train.image import ImageError, ImageLimits, check_image, examine_image, open_image, read_header
from vglm_train.image.dicom import parse_window, render

RNG = np.random.default_rng(5)
WHEEL = Path(pydicom.__file__).parent / "data"
NO_PIXELS = "DICOM without pixels"
REFUSED = {  # of the files in pydicom's wheel; all others are read
    **dict.fromkeys(("UN_sequence", "empty_charset_LEI", "ExplVR_LitEndNoMeta", "waveform_ecg", "test-SR"), NO_PIXELS),
    **dict.fromkeys(("rtplan", "rtplan_truncated", "rtstruct", "reportsi", "priv_SQ", "no_meta"), NO_PIXELS),
    **dict.fromkeys(("fall", "hotiron", "hotmetalblue", "pet", "pet20step", "spring"), NO_PIXELS),
    **dict.fromkeys(("summer", "winter", "no_meta_group_length", "reportsi_with_empty_number_tags"), NO_PIXELS),
    **dict.fromkeys(("meta_missing_tsyntax", "nested_priv_SQ"), f"{NO_PIXELS}: 0 x 0"),
    **dict.fromkeys(("JPEG-lossy", "JPGExtended"), "cannot be decoded (JPEG Extended (Process 2 and 4))"),
    "JPEG2000-embedded-sequence-delimiter": "of another size than it says",
    "MR_truncated": "cut short (8,130 of 8,192 bytes",
    "badVR": "damaged (ValueError)",
    "ExplVR_BigEndNoMeta": "of no known kind",
}


def levels_of(data: bytes, **choice: Any) -> NDArray[np.uint8]:
    return np.asarray(render(data, **choice).image)


def by_pydicom(data: bytes, frame: int = 0) -> NDArray[np.uint8]:
    """What pydicom's own functions make of a file, from 0 to 255."""
    dataset = dcmread(io.BytesIO(data), force=True)
    values = pixel_array(dataset, index=frame)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        values = apply_color_lut(values, dataset)
        return np.floor(values[..., :3] * 255.0 / np.iinfo(values.dtype).max + 0.5).astype(np.uint8)
    if values.ndim == 3:
        return np.floor(values.astype(float) * 255 / (2**dataset.BitsStored - 1) + 0.5).astype(np.uint8)
    eight = (
        values.dtype == np.uint8
        and dataset.BitsStored == 8
        and "RescaleSlope" not in dataset
        and "ModalityLUTSequence" not in dataset
    )
    values = apply_modality_lut(values, dataset)
    shown = apply_voi_lut(values, dataset).astype(float)
    if "VOILUTSequence" in dataset:
        low, high = 0.0, 2.0 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
    elif "WindowCenter" in dataset:
        low, high = bounds(dataset)
    else:
        low, high = (0.0, 255.0) if eight else (shown.min(), shown.max())
    levels = np.floor((shown - low) / (high - low) * 255 + 0.5).astype(np.uint8)
    return 255 - levels if dataset.PhotometricInterpretation == "MONOCHROME1" else levels


def bounds(dataset: Dataset) -> tuple[float, float]:
    """What pydicom's windowing makes of black and white."""
    if "ModalityLUTSequence" in dataset:
        return 0, 2.0 ** dataset.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    half = 2.0 ** (dataset.BitsStored - 1)
    low, high = (-half, half - 1) if dataset.PixelRepresentation else (0.0, 2 * half - 1)
    slope, shift = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    return low * slope + shift, high * slope + shift


def assert_same(data: bytes, frame: int = 0) -> None:
    wanted, found = by_pydicom(data, frame), levels_of(data, frame=frame)
    wanted = wanted if wanted.ndim == 3 else np.repeat(wanted[..., None], 3, axis=2)
    assert found.shape == wanted.shape
    apart = np.abs(found.astype(int) - wanted)
    assert apart.max() <= 1, "a level is the half of another, rounded either way"
    assert (apart > 0).mean() < 0.05


def files_of_the_wheel() -> list[Path]:
    files = [*(WHEEL / "test_files").glob("*.dcm"), *(WHEEL / "palettes").glob("*.dcm")]
    return sorted(files)


@pytest.mark.parametrize("path", files_of_the_wheel(), ids=lambda path: path.stem)
def test_the_files_of_pydicoms_wheel(path: Path) -> None:
    data = path.read_bytes()
    if path.stem in REFUSED:
        with pytest.raises(ImageError) as error:
            open_image(data)
        assert REFUSED[path.stem] in error.value.reason
        return
    assert_same(data)
    header = check_image(data, ImageLimits())
    assert (header.width, header.height) == open_image(data).size
    assert read_header(data) == header


def grey(bits: int, signed: bool) -> NDArray[Any]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    kind = "int" if signed else "uint"
    return RNG.integers(low, high, (30, 40)).astype(f"{kind}{8 if bits <= 8 else 16}")


def settings(bits: int, signed: bool) -> dict[str, dict[str, Any]]:
    middle = 0 if signed else 2 ** (bits - 1)
    first = -(2 ** (bits - 1)) if signed else 0
    entries = np.sort(RNG.integers(0, 1 << 12, 2**bits)).astype(np.uint16)
    return {
        "none": {},
        "rescaled": {"RescaleSlope": 2, "RescaleIntercept": -1024},
        "window": {"WindowCenter": middle, "WindowWidth": 2 ** (bits - 1)},
        "exact": {"WindowCenter": middle, "WindowWidth": 2 ** (bits - 2), "VOILUTFunction": "LINEAR_EXACT"},
        "sigmoid": {"WindowCenter": [middle, 1], "WindowWidth": [2 ** (bits - 1), 9], "VOILUTFunction": "SIGMOID"},
        "both": {
            "RescaleSlope": 0.5,
            "RescaleIntercept": 7,
            "WindowCenter": middle / 2,
            "WindowWidth": 2 ** (bits - 2),
        },
        "voi": lut("VOILUTSequence", entries, first, 12),
        "modality": lut("ModalityLUTSequence", entries, first, 16) if bits > 8 and not signed else {},
    }


@pytest.mark.parametrize("shown", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_grey_values_as_pydicom_shows_them(bits: int, signed: bool, shown: str) -> None:
    values = grey(bits, signed)
    for name, tags in settings(bits, signed).items():
        if name == "voi" and (bits == 16 or (signed and bits == 8)):
            continue  # pydicom's index has no room there
        data = make_dicom(values, {**tags, "PhotometricInterpretation": shown}, bits=bits)
        assert_same(data)


def test_a_lookup_table_of_8_bits_goes_as_far_as_its_values() -> None:
    values = np.array([[0, 300, 4095, 65000]], np.uint16)
    entries = (np.arange(4096) // 16).astype(np.uint8)
    found = levels_of(make_dicom(values, lut("VOILUTSequence", entries, 0, 8)))
    assert found[..., 0].tolist() == [[0, 18, 255, 255]]


def test_several_windows_and_windows_of_choice() -> None:
    values = np.array([[-1000, -600, 40, 400, 3000]], np.int16)
    tags = {
        "Modality": "CT",
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
        "WindowCenter": [40, 400],
        "WindowWidth": [400, 1800],
    }
    data = make_dicom(values, tags)
    second, by_name = levels_of(data, window=parse_window("file:2")), levels_of(data, window=parse_window("bone"))
    assert np.array_equal(second, by_name)
    assert np.array_equal(levels_of(data), levels_of(data, window=parse_window("40/400")))
    assert levels_of(data)[..., 0].tolist() == [[0, 0, 128, 255, 255]]
    assert levels_of(data, window=parse_window("full"))[0, :, 0].tolist() == [0, 26, 66, 89, 255]
    assert "window lung" in render(data, parse_window("lung")).note
    for window, reason in (("file:3", "without window 3: it has 2"), ("lung", "is of CT")):
        other = data if window == "file:3" else make_dicom(values, {**tags, "Modality": "DX"})
        with pytest.raises(ImageError, match=reason):
            render(other, parse_window(window))
    for wrong in ("liver", "40", "40/0", "nan/9", "file:0", "40/inf", ""):
        with pytest.raises(ValueError, match="give one of"):
            parse_window(wrong)


def test_padding_does_not_widen_the_range() -> None:
    values = np.array([[-2000, 0, 50, 100]], np.int16)
    data = make_dicom(values, {"PixelPaddingValue": -2000})
    assert levels_of(data)[0, :, 0].tolist() == [0, 0, 128, 255]


def test_frames() -> None:
    values = RNG.integers(0, 4096, (3, 6, 5)).astype(np.uint16)
    data = make_dicom(values, {"NumberOfFrames": 3}, bits=12)
    for frame in range(3):
        assert_same(data, frame)
    assert any("several in one file" in note for note in examine_image(data).notes)
    with pytest.raises(ImageError, match="no frame 4: it has 3"):
        render(data, frame=3)


def test_each_frame_of_an_enhanced_file_has_its_own_window() -> None:
    def frame(centre: float) -> Dataset:
        item, voi, scale = Dataset(), Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = centre, 100
        scale.RescaleSlope, scale.RescaleIntercept = 1, -1000
        item.FrameVOILUTSequence, item.PixelValueTransformationSequence = Sequence([voi]), Sequence([scale])
        return item

    values = np.tile(np.array([[900, 1000, 1100]], np.uint16), (2, 1, 1))
    tags = {"NumberOfFrames": 2, "PerFrameFunctionalGroupsSequence": Sequence([frame(0), frame(100)])}
    data = make_dicom(values, tags)
    assert levels_of(data)[0, :, 0].tolist() == [0, 129, 255]
    assert levels_of(data, frame=1)[0, :, 0].tolist() == [0, 0, 129]


STORED = np.arange(6, dtype=np.uint8).reshape(2, 3)


@pytest.mark.parametrize(
    ("directions", "upright"),
    [
        ("L F", STORED),
        ("R F", STORED[:, ::-1]),
        ("L H", STORED[::-1]),
        ("R H", STORED[::-1, ::-1]),
        ("F L", STORED.T),
        ("H L", STORED.T[::-1]),
        ("F R", STORED.T[:, ::-1]),
        ("A F", STORED),
        ("P FR", STORED),
        ("A R", STORED),
        ("LE CD", STORED),
        ("X Y", STORED),
        ("L", STORED),
    ],
)
def test_a_projection_is_turned_by_the_patients_position(directions: str, upright: NDArray[np.uint8]) -> None:
    data = make_dicom(STORED, {"PatientOrientation": directions.split()})
    assert np.array_equal(levels_of(data)[..., 0], upright)
    header = read_header(data)
    assert (header.height, header.width) == upright.shape


@pytest.mark.parametrize(
    ("cosines", "upright"),
    [
        ([1, 0, 0, 0, 1, 0], STORED),
        ([-1, 0, 0, 0, -1, 0], STORED[::-1, ::-1]),
        ([0, 1, 0, 1, 0, 0], STORED.T),
        ([0.98, 0.2, 0, 0, 0, -1], STORED),
        ([0, 1, 0, 0, 0, 1], STORED[::-1]),
        ([0, 0, 0, 0, 1, 0], STORED),
    ],
)
def test_a_slice_is_turned_by_the_patients_position(cosines: list[float], upright: NDArray[np.uint8]) -> None:
    data = make_dicom(STORED, {"ImageOrientationPatient": cosines})
    assert np.array_equal(levels_of(data)[..., 0], upright)


def test_a_mammogram_stays_as_it_is_read() -> None:
    data = make_dicom(STORED, {"PatientOrientation": ["A", "H"], "Modality": "MG"})
    assert np.array_equal(levels_of(data)[..., 0], STORED)


SYNTAXES = {
    "implicit": (uid.ImplicitVRLittleEndian, False),
    "big endian": (uid.ExplicitVRBigEndian, False),
    "deflated": (uid.DeflatedExplicitVRLittleEndian, False),
    "RLE": (uid.RLELossless, True),
    "JPEG-LS": (uid.JPEGLSLossless, True),
    "JPEG 2000": (uid.JPEG2000Lossless, True),
}


@pytest.mark.parametrize("name", SYNTAXES)
@pytest.mark.parametrize("kind", ["8", "12", "colour", "frames"])
def test_every_transfer_syntax_gives_the_same_pixels(name: str, kind: str) -> None:
    syntax, compressed = SYNTAXES[name]
    bits = 12 if kind in ("12", "frames") else 8
    shape = {"colour": (40, 50, 3), "frames": (2, 40, 50)}.get(kind, (40, 50))
    values = RNG.integers(0, 2**bits, shape).astype(np.uint16 if bits > 8 else np.uint8)
    tags = {"NumberOfFrames": 2} if kind == "frames" else {}
    plain = make_dicom(values, tags, bits=bits)
    data = make_dicom(values, tags, syntax, bits, compressed)
    assert np.array_equal(levels_of(data), levels_of(plain))
    assert check_image(data, ImageLimits()).format == "DICOM"


def test_files_without_their_first_part_are_read() -> None:
    for syntax in (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian):
        data = make_dicom(STORED, syntax=syntax, meta=False)
        assert kind_of(data).name == "dicom"
        assert np.array_equal(levels_of(data)[..., 0], STORED)
