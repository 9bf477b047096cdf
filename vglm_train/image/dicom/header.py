"""Bytes of a DICOM file -> a data set of pydicom's, and what it says of its picture."""

import io
import logging
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vglm_train.errors import UserError, needs_extra
from vglm_train.file_kind import AGAIN, kind_of
from vglm_train.image.dicom.turn import NONE, Turn, of_projection, of_slice
from vglm_train.image.errors import ImageError

if TYPE_CHECKING:
    from pydicom import Dataset

ELEMENTS = 10_000  # at the top of a file: real ones have a few hundred
INFLATED = 2**28  # bytes of a deflated data set
STEP = 2**24  # bytes that are inflated at once to count them
MAX_BYTES = 2**31  # of one frame's values
HEAD = 2**20  # bytes in which the tags before the pixels mostly end
NO_PIXELS = "DICOM without pixels"

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
PIXEL_TAGS = (0x7FE00010, 0x7FE00008, 0x7FE00009)
LAYOUT = (  # keywords of how pixels are stored
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PlanarConfiguration", "NumberOfFrames", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
)  # fmt: skip
PICTURE = (  # keywords of what a picture needs
    *LAYOUT, "SOPClassUID", "Modality", "PixelPaddingValue",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "VOILUTSequence", "PatientOrientation", "ImageOrientationPatient", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
    *(f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
)  # fmt: skip
_DEFLATED = b"1.2.840.10008.1.2.1.99"


class Header(NamedTuple):
    """What a header says of its picture, as stored. `turn`: what makes it upright."""

    width: int
    height: int
    frames: int
    turn: Turn


def is_dicom(data: bytes) -> bool:
    """Whether a file begins as DICOM does."""
    return kind_of(data).name == "dicom"


@contextmanager
def guarded() -> Iterator[None]:
    """Within it pydicom is quiet, and whatever it raises becomes an ImageError that quotes nothing of the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ImageError, UserError):
        raise
    except Exception as error:
        raise ImageError("undecodable", f"DICOM that is damaged ({type(error).__name__}): {AGAIN}") from None


def read_dataset(data: bytes, whole: bool = False) -> "Dataset":
    """The data set with all that a picture needs; `whole`: with everything that the file holds.

    UserError where pydicom is not installed, ImageError where the file is no DICOM that can be read.
    """
    dataset, _ = _read(data, None if whole else (*PICTURE, *PIXELS))
    return dataset


def read_tags(path: Path, names: Sequence[str]) -> "Dataset":
    """Tags of a file with pixels, which are not read. OSError, or ImageError where there are none; UserError as
    `read_dataset`."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
        with suppress(ImageError):
            dataset, pixels = _read(head, names, before_pixels=True)
            if pixels:
                return dataset
        dataset, pixels = _read(head + file.read(), names, before_pixels=True)
    if not pixels:
        raise ImageError("undecodable", NO_PIXELS)
    return dataset


def _read(data: bytes, names: Sequence[str] | None, before_pixels: bool = False) -> "tuple[Dataset, bool]":
    """The data set with those tags, or all; whether it has pixels, if it is read up to these."""
    with needs_extra("dicom", "reading DICOM"):
        from pydicom import config
        from pydicom.filereader import read_partial
        from pydicom.tag import Tag
    logging.getLogger("pydicom").disabled = True  # it quotes values
    _check_inflated(data)
    elements, pixels = 0, False

    def stop(tag: Any, vr: str | None, length: int) -> bool:
        nonlocal elements, pixels
        elements += 1
        if elements > ELEMENTS:
            raise ImageError("bomb", f"DICOM of more than {ELEMENTS:,} elements: save it anew")
        pixels = pixels or tag in PIXEL_TAGS
        return before_pixels and pixels

    with guarded():
        config.settings.reading_validation_mode = config.IGNORE
        tags: Any = None if names is None else [Tag(name) for name in names]
        dataset = read_partial(io.BytesIO(data), stop, force=True, specific_tags=tags)
        _name_syntax(dataset)
        return dataset, pixels


def read_header(data: bytes) -> Header:
    """Size and number of frames. ImageError where there are no pixels, UserError as `read_dataset`."""
    return header_of(read_dataset(data))


def header_of(dataset: "Dataset") -> Header:
    """As `read_header`."""
    with guarded():
        if not any(name in dataset for name in PIXELS):
            kind = getattr(dataset.get("SOPClassUID"), "name", "")
            shown = f" ({kind})" if kind and not kind[0].isdigit() else ""
            raise ImageError("undecodable", f"{NO_PIXELS}{shown}: leave it out")
        height, width = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
        if width <= 0 or height <= 0:
            raise ImageError("undecodable", f"{NO_PIXELS}: {width} x {height}")
        frames = max(1, int(dataset.get("NumberOfFrames") or 1))
        return Header(width, height, frames, _turn(dataset))


def of_frame(dataset: "Dataset", frame: int, group: str) -> Any:
    """The first item of a functional group of frame `frame` (from 0), else of all frames; None where there is none."""
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for item in [*frames[frame : frame + 1], *shared[:1]]:
        if found := item.get(group):
            return found[0]
    return None


def _turn(dataset: "Dataset") -> Turn:
    """All frames of a file are turned alike: as the first."""
    plane = of_frame(dataset, 0, "PlaneOrientationSequence")
    cosines = (plane or dataset).get("ImageOrientationPatient")
    if cosines:
        return of_slice([float(value) for value in cosines])
    if dataset.get("Modality") == "MG":
        return NONE
    return of_projection(list(dataset.get("PatientOrientation") or []))


def _check_inflated(data: bytes) -> None:
    """ImageError for a deflated data set that would take more than INFLATED bytes; pydicom inflates it whole."""
    if _DEFLATED not in data[:2048]:
        return
    if data[132:140] != b"\2\0\0\0UL\4\0":
        raise ImageError("undecodable", f"DICOM that is damaged (its first group has no length): {AGAIN}")
    start = 144 + int.from_bytes(data[140:144], "little")
    inflate, rest, total = zlib.decompressobj(-zlib.MAX_WBITS), data[start:], 0
    while rest and total <= INFLATED:
        try:
            total += len(inflate.decompress(rest, STEP))
        except zlib.error:
            raise ImageError("undecodable", f"DICOM that is damaged (its deflated data): {AGAIN}") from None
        rest = inflate.unconsumed_tail
    if total > INFLATED:
        raise ImageError("bomb", f"DICOM that inflates to more than {INFLATED:,} bytes: save it uncompressed")


def _name_syntax(dataset: Any) -> None:
    """The transfer syntax of a file that does not name it, as it was read."""
    from pydicom import uid

    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
