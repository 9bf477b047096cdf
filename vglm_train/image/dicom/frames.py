"""The stored values of one frame, decoded. A compressed frame is judged before a decoder gets it."""

import io
import re
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from vglm_train.file_kind import AGAIN
from vglm_train.image.dicom.apart import APART
from vglm_train.image.dicom.header import LAYOUT, MAX_BYTES, Header, guarded
from vglm_train.image.errors import ImageError

if TYPE_CHECKING:
    from pydicom import Dataset

# who decodes a transfer syntax: of several, the one that answers damaged data with an exception
PLUGINS = {
    **dict.fromkeys(("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"), "pillow"),
    **dict.fromkeys(("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"), "pyjpegls"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203)), "pylibjpeg"),
    "1.2.840.10008.1.2.5": "pydicom",
}
LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")  # JPEG Lossless: see apart.py
_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
_SOF = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf\xf7]..\x08?", re.DOTALL)


def stored_values(dataset: "Dataset", header: Header, frame: int) -> NDArray[Any]:
    """[h,w] grey or palette values or [h,w,3] RGB of one frame, as pydicom decodes them. ImageError names the transfer
    syntax where that is why they cannot be had."""
    if not 0 <= frame < header.frames:
        raise ImageError("undecodable", f"DICOM that has no frame {frame + 1}: it has {header.frames}")
    with guarded():
        samples, bits = int(dataset.get("SamplesPerPixel") or 1), int(dataset.get("BitsAllocated") or 0)
        if header.width * header.height * samples * bits // 8 > MAX_BYTES:
            raise ImageError("bomb", f"DICOM of {header.width:,} x {header.height:,} pixels: store it smaller")
        highest = int(dataset.get("BitsStored") or bits) - 1
        if int(dataset.get("HighBit", highest)) != highest:
            raise ImageError("undecodable", "DICOM whose values do not begin at their lowest bit: export it anew")
        syntax = dataset.file_meta.TransferSyntaxUID
        _check_decoder(syntax)
        if syntax.is_encapsulated:
            _check_encoded(dataset, header, frame, syntax.name)
        else:
            _check_length(dataset, header.width * header.height * samples * bits * header.frames)
        values = _decoded(dataset, frame, syntax)
        if values is None:
            reason = f"DICOM whose pixels cannot be decoded ({syntax.name}): cut short, or of a kind that is not read"
            raise ImageError("undecodable", reason)
        return values


def _decoded(dataset: "Dataset", frame: int, syntax: Any) -> NDArray[Any] | None:
    """None where the decoder refuses."""
    from pydicom.pixels.utils import pixel_array

    if syntax in LOSSLESS:
        return APART.decode(_pixel_file(dataset), frame)
    try:
        values: NDArray[Any] = pixel_array(dataset, index=frame, decoding_plugin=PLUGINS.get(syntax, ""))
    except (RuntimeError, ValueError, IndexError, TypeError):
        return None
    return values


def _pixel_file(dataset: "Dataset") -> bytes:
    """A file of what the decoder needs: nothing of the patient."""
    from pydicom import Dataset, dcmwrite
    from pydicom.dataset import FileMetaDataset

    out, file = Dataset(), io.BytesIO()
    for name in (*LAYOUT, "PixelData"):
        if name in dataset:
            out[name] = dataset[name]
    out.file_meta = FileMetaDataset()
    out.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    dcmwrite(file, out)
    return file.getvalue()


def _check_decoder(syntax: Any) -> None:
    from pydicom.pixels.decoders.base import get_decoder

    name = syntax.name if syntax.is_transfer_syntax else "a transfer syntax that DICOM does not know"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        reason = f"DICOM in a transfer syntax that is not read ({name}): export it uncompressed or as JPEG 2000"
        raise ImageError("undecodable", reason) from None
    if not decoder.is_available:
        reason = f'DICOM that no installed decoder reads ({name}): pip install "vglm_train[dicom]"'
        raise ImageError("undecodable", reason)


def _check_length(dataset: "Dataset", bits: int) -> None:
    """Of values that are not compressed, all of which must be there."""
    if "PixelData" not in dataset:
        return  # floats; pydicom compares
    if dataset.PhotometricInterpretation == "YBR_FULL_422":
        bits = bits * 2 // 3
    there, needed = len(dataset.PixelData), (bits + 7) // 8
    if there < needed:
        raise ImageError("undecodable", f"DICOM that is cut short ({there:,} of {needed:,} bytes of pixels): {AGAIN}")


def _check_encoded(dataset: "Dataset", header: Header, frame: int, name: str) -> None:
    """A compressed frame must be whole and as large as the header says: some decoders fill up what is missing, and all
    allocate what the frame itself claims."""
    from pydicom.encaps import get_frame

    tables = (dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths"))
    offsets: Any = tables if all(tables) else None
    try:
        data = get_frame(dataset.PixelData, frame, number_of_frames=header.frames, extended_offsets=offsets)
    except Exception:
        raise ImageError("undecodable", f"DICOM whose pixels are cut short ({name}): {AGAIN}") from None
    if name.startswith("RLE"):
        return  # pydicom compares its length
    if data.startswith(_JP2) and not _has_codestream(data):
        raise ImageError("undecodable", f"DICOM whose pixels are damaged ({name}): {AGAIN}")
    if b"\xff\xd9" not in data[-32:]:
        raise ImageError("undecodable", f"DICOM whose pixels are cut short ({name}): {AGAIN}")
    size = _encoded_size(data)
    if size is not None and size != (header.width, header.height):
        said = f"{size[0]} x {size[1]}, not {header.width} x {header.height} as its header"
        raise ImageError("undecodable", f"DICOM whose pixels are of another size than it says: {said}")


def _has_codestream(data: bytes) -> bool:
    """Whether the boxes of a JP2 file lead to its pixels; pydicom walks over them without end where one has no size."""
    place = len(_JP2)
    while place + 8 <= len(data):
        if data[place + 4 : place + 8] == b"jp2c":
            return True
        size = int.from_bytes(data[place : place + 4])
        if size < 8:
            return False
        place += size
    return False


def _encoded_size(data: bytes) -> tuple[int, int] | None:
    """Width and height by a JPEG 2000's or a JPEG's own header; None where it has none."""
    if (start := data.find(b"\xff\x4f\xff\x51", 0, 4096)) >= 0:
        right, bottom, left, top = (int.from_bytes(data[start + at : start + at + 4]) for at in (8, 12, 16, 20))
        return right - left, bottom - top
    place = 2
    while data[:2] == b"\xff\xd8" and place + 9 < len(data) and data[place] == 0xFF:
        if _SOF.match(data, place):
            return int.from_bytes(data[place + 7 : place + 9]), int.from_bytes(data[place + 5 : place + 7])
        place += 1 if data[place + 1] == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4])
    return None
