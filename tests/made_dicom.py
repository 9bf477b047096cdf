"""DICOM files as devices and hospitals write them, with a patient in every place where one can be named."""

import io
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmwrite, uid
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence

PLANTED = (  # what must be found nowhere
    "WANG", "Xiaoming", "王小明", "MRN-4711-Q", "ACC889977", "19610203", "20240517", "142233.5", "General Hospital",
    "DRHOUSE", "13800138000", "SER-NO-77", "1.2.826.0.1.3680043.77", "PRIVATE-NOTE-4711",
)  # fmt: skip
ROOT = "1.2.826.0.1.3680043.77"


def patient(number: int = 0) -> dict[str, Any]:
    """Tags that name a patient, a doctor, a place or a time."""
    return {
        "SpecificCharacterSet": ["", "ISO 2022 IR 58"],
        "PatientName": "WANG^Xiaoming=王^小明=",
        "OtherPatientNames": "王小明",
        "PatientID": f"MRN-4711-Q{number}",
        "PatientBirthDate": "19610203",
        "PatientAddress": "General Hospital road",
        "PatientTelephoneNumbers": "13800138000",
        "AccessionNumber": "ACC889977",
        "StudyDate": "20240517",
        "StudyTime": "142233.5",
        "InstitutionName": "General Hospital",
        "ReferringPhysicianName": "DRHOUSE",
        "DeviceSerialNumber": "SER-NO-77",
        "StudyInstanceUID": f"{ROOT}.{number}.1",
        "SeriesInstanceUID": f"{ROOT}.{number}.2",
        "WindowCenterWidthExplanation": "WANG",
        "ImageComments": "Xiaoming",
    }


def make_dicom(
    values: NDArray[Any],
    tags: dict[str, Any] | None = None,
    syntax: str = uid.ExplicitVRLittleEndian,
    bits: int | None = None,
    compressed: bool = False,
    meta: bool = True,
) -> bytes:
    """A file of `values`, [h,w] grey, [h,w,3] colour or, with the tag NumberOfFrames, these by frame, whose first
    patient is planted. `compressed`: encoded by pydicom as `syntax`."""
    tags = {**patient(), **(tags or {})}
    frames = int(tags.get("NumberOfFrames", 1))
    colour = values.ndim == 3 + ("NumberOfFrames" in tags)
    size = values.shape[1:3] if "NumberOfFrames" in tags else values.shape[:2]
    out = Dataset()
    out.file_meta = FileMetaDataset()
    out.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian if compressed else syntax
    out.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.9"
    out.SOPClassUID, out.SOPInstanceUID = uid.SecondaryCaptureImageStorage, f"{ROOT}.9"
    out.Modality, out.Rows, out.Columns = "DX", *size
    out.SamplesPerPixel = 3 if colour else 1
    out.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        out.PlanarConfiguration = 0
    out.BitsAllocated = 8 * values.dtype.itemsize
    out.BitsStored = bits or out.BitsAllocated
    out.HighBit, out.PixelRepresentation = out.BitsStored - 1, int(np.issubdtype(values.dtype, np.signedinteger))
    item = Dataset()
    item.RequestedProcedureID, item.ScheduledProcedureStepDescription = "ACC889977", "WANG Xiaoming"
    out.RequestAttributesSequence = Sequence([item])
    out.private_block(0x0019, "GENERAL", create=True).add_new(0x01, "LO", "PRIVATE-NOTE-4711")
    big = syntax == uid.ExplicitVRBigEndian
    data = values.astype(values.dtype.newbyteorder(">" if big else "<")).tobytes()
    out.PixelData = data + b"\0" * (len(data) % 2)
    out["PixelData"].VR = "OB" if values.dtype.itemsize == 1 else "OW"
    for name, value in tags.items():
        setattr(out, name, value)
    assert frames * int(np.prod(size)) * out.SamplesPerPixel == values.size
    if compressed:
        out.compress(syntax, generate_instance_uid=False)
    file = io.BytesIO()
    implicit, little = syntax == uid.ImplicitVRLittleEndian, not big
    if meta:
        dcmwrite(file, out, enforce_file_format=True)
    else:
        del out.file_meta
        dcmwrite(file, out, implicit_vr=implicit, little_endian=little)
    return file.getvalue()


def leaks(*places: Path) -> set[tuple[str, str]]:
    """What was planted and stands in names or bytes of all that was written, and where."""
    return {(word, name) for name, data in _everything(places) for word in PLANTED if _holds(data, word)}


def _holds(data: bytes, word: str) -> bool:
    return any(word.encode(encoding) in data for encoding in ("utf-8", "gb18030"))


def _everything(places: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    for place in places:
        for path in [place, *place.rglob("*")]:
            yield path.name, path.name.encode()
            if path.is_file():
                yield path.name, path.read_bytes()


def inflating(size: int = 300 * 2**20) -> bytes:
    """A small file whose deflated data are `size` zeros more."""
    data = make_dicom(np.zeros((4, 4), np.uint8), syntax=uid.DeflatedExplicitVRLittleEndian)
    start = 144 + int.from_bytes(data[140:144], "little")
    deflate = zlib.compressobj(9, wbits=-15)
    return data[:start] + b"".join(deflate.compress(bytes(2**20)) for _ in range(size >> 20)) + deflate.flush()


def many_elements(number: int = 60_000) -> bytes:
    """A file with this many elements before its pixels."""
    mark = b"\xe0\x7f\x10\0"
    head, pixels = make_dicom(np.zeros((4, 4), np.uint8)).split(mark)
    return head + b"".join(b"\xdf\x7f" + n.to_bytes(2, "little") + b"LO\0\0" for n in range(number)) + mark + pixels


def lut(name: str, entries: NDArray[Any], first: int, bits: int) -> dict[str, Any]:
    """The tag `name`, ModalityLUTSequence or VOILUTSequence, with one table."""
    item = Dataset()
    many = len(entries) > 32767  # too many for numbers
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", *(("OW", entries.astype("<u2").tobytes()) if many else ("US", entries.tolist())))
    item.LUTExplanation = "WANG"
    if name == "ModalityLUTSequence":
        item.ModalityLUTType = "US"
    return {name: Sequence([item])}
