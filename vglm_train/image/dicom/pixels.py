"""A frame of a DICOM -> an upright RGB picture of 8 bits.

Grey: values are rescaled (slope and intercept, or the modality LUT), then the file's VOI LUT or window, or a window of
choice, makes black and white, then MONOCHROME1 is inverted. A file with neither has its smallest value black and its
largest white, padding left out; unsigned values of 8 bits stay as they are. Colour: as RGB.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vglm_train.file_kind import AGAIN
from vglm_train.image.dicom.frames import stored_values
from vglm_train.image.dicom.header import Header, guarded, header_of, of_frame, read_dataset
from vglm_train.image.dicom.turn import NONE
from vglm_train.image.dicom.window import FILE, Window
from vglm_train.image.errors import ImageError
from vglm_train.image.levels import STRETCHED

if TYPE_CHECKING:
    from pydicom import Dataset


class Rendered(NamedTuple):
    """`image`: upright, RGB. `note`: what was taken as black and white, and whether it was turned, in words that can be
    counted. `header`: of the file as stored."""

    image: Image.Image
    note: str
    header: Header


def render(data: bytes, window: Window = FILE, frame: int = 0) -> Rendered:
    """Frame `frame` (from 0) of a DICOM file through `window`. ImageError says why there is none; UserError where
    pydicom is not installed."""
    return render_dataset(read_dataset(data), window, frame)


def render_dataset(dataset: "Dataset", window: Window = FILE, frame: int = 0) -> Rendered:
    """As `render`."""
    header = header_of(dataset)
    values = stored_values(dataset, header, frame)
    with guarded():
        if values.ndim == 3:
            levels, note = _colour(values, dataset)
        elif dataset.PhotometricInterpretation == "PALETTE COLOR":
            from pydicom.pixels.processing import apply_color_lut

            levels, note = _colour(apply_color_lut(values, dataset), dataset, palette=True)
        else:
            levels, note = _grey(values, dataset, window, frame)
        levels = header.turn(levels)
        note += "" if header.turn == NONE else "; turned by the patient's position"
        return Rendered(Image.fromarray(np.ascontiguousarray(levels)).convert("RGB"), f"DICOM, {note}", header)


def _colour(values: NDArray[Any], dataset: "Dataset", palette: bool = False) -> tuple[NDArray[np.uint8], str]:
    """RGB [h,w,3] or RGBA of 8, 16 or 32 bits -> 8."""
    bits = 8 * values.dtype.itemsize if palette else int(dataset.BitsStored)
    levels = values[..., :3]
    if bits > 8:
        white = (1 << bits) - 1
        levels = (levels.astype(np.uint64) * 255 + white // 2) // white
    return levels.astype(np.uint8), "palette colours" if palette else "colours"


def _grey(values: NDArray[Any], dataset: "Dataset", window: Window, frame: int) -> tuple[NDArray[np.uint8], str]:
    padding = values == int(dataset.PixelPaddingValue) if _is_number(dataset.get("PixelPaddingValue")) else None
    plain = values.dtype == np.uint8 and int(dataset.get("BitsStored", 8)) == 8
    modality = of_frame(dataset, frame, "PixelValueTransformationSequence") or dataset
    rescaled, is_scaled = _rescaled(values, dataset, modality)
    levels, note = _windowed(rescaled, dataset, window, frame)
    if levels is None:
        if plain and not is_scaled and window.kind == "file":
            levels, note = values, "8 bits as stored"
        else:
            levels, note = _stretched(rescaled, padding), f"range found {STRETCHED}"
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        levels, note = 255 - levels, f"{note}; MONOCHROME1 inverted"
    return levels, note


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _rescaled(values: NDArray[Any], dataset: "Dataset", modality: Any) -> tuple[NDArray[Any], bool]:
    """Values in the modality's units, and whether the file says how."""
    if tables := modality.get("ModalityLUTSequence"):
        return _looked_up(values, dataset, tables[0])[0], True
    slope, intercept = modality.get("RescaleSlope"), modality.get("RescaleIntercept")
    if slope is None or intercept is None:
        return values, False
    return values.astype(np.float64) * float(slope) + float(intercept), (float(slope), float(intercept)) != (1.0, 0.0)


def _windowed(
    values: NDArray[Any], dataset: "Dataset", window: Window, frame: int
) -> tuple[NDArray[np.uint8] | None, str]:
    """Levels through the window that is wanted; None where the smallest to the largest value is."""
    if window.kind == "full":
        return None, ""
    if window.kind == "hounsfield" and dataset.get("Modality") != "CT":
        raise ImageError("undecodable", f"DICOM that is no tomography: window {window.name} is of CT")
    if window.kind != "file":
        return _through(values, window.centre, window.width, "LINEAR"), f"window {window.name}"
    voi = of_frame(dataset, frame, "FrameVOILUTSequence") or dataset
    tables, centres, widths = (_several(voi.get(name)) for name in ("VOILUTSequence", "WindowCenter", "WindowWidth"))
    tables = [table for table in tables if table.get("LUTDescriptor") and table.get("LUTData")]
    number = window.number
    if max(len(tables), min(len(centres), len(widths))) <= number:
        if number:
            there = max(len(tables), len(centres))
            raise ImageError("undecodable", f"DICOM without window {number + 1}: it has {there}")
        return None, ""
    if number < len(tables):
        found, bits = _looked_up(values, dataset, tables[number])
        white = (1 << bits) - 1
        return ((np.minimum(found, white).astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8), "VOI LUT"
    function = str(voi.get("VOILUTFunction") or "LINEAR").upper()
    levels = _through(values, float(centres[number]), float(widths[number]), function)
    return levels, "window as the file says" + (f" ({number + 1})" if number else "")


def _several(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, int | float | str) else list(value)


def _through(values: NDArray[Any], centre: float, width: float, function: str) -> NDArray[np.uint8]:
    """By pydicom's windowing, from 0 to 255."""
    from pydicom import Dataset
    from pydicom.pixels.processing import apply_windowing

    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID") or width < (1 if function == "LINEAR" else 1e-9):
        raise ImageError("undecodable", "DICOM whose window cannot be used: choose another one")
    out = Dataset()
    out.PhotometricInterpretation, out.BitsStored, out.PixelRepresentation = "MONOCHROME2", 8, 0
    out.WindowCenter, out.WindowWidth, out.VOILUTFunction = centre, width, function
    levels = np.floor(apply_windowing(values, out) + 0.5)
    return np.clip(levels, 0, 255).astype(np.uint8)


def _looked_up(values: NDArray[Any], dataset: "Dataset", table: Any) -> tuple[NDArray[Any], int]:
    """Entries of a modality or VOI LUT, and how many bits they have; beyond its ends its first and last entry."""
    entries, first, bits = (int(value) for value in table.LUTDescriptor)
    entries, data = entries or 65536, table.LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        wide = len(data) >= 2 * entries
        data = np.frombuffer(data, f"{order}u2" if wide else "u1")
    lut = np.atleast_1d(np.asarray(data))[:entries]
    if len(lut) < entries or not 0 < bits <= 16:
        raise ImageError("undecodable", f"DICOM whose lookup table is cut short: {AGAIN}")
    index = np.clip(np.floor(values.astype(np.float64)) - first, 0, entries - 1).astype(np.int64)
    return lut.astype(np.int64)[index], bits


def _stretched(values: NDArray[Any], padding: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    """Black is the smallest value, white the largest; padding, where a file names its value, is black."""
    seen = values if padding is None or padding.all() else values[~padding]
    low, high = float(seen.min()), float(seen.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError("undecodable", "DICOM of which some values are NaN or infinite: replace them first")
    if low == high:
        return np.zeros(values.shape, np.uint8)
    share = (np.clip(values.astype(np.float64), low, high) - low) / (high - low)
    return np.floor(share * 255 + 0.5).astype(np.uint8)
