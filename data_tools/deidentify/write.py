"""One DICOM file without what names a patient: what workers of `deidentify` run."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from data_tools.deidentify.allowed import NUMBERS, SEQUENCES, TABLES, UIDS, WORDS
from vglm_train.image import ImageError
from vglm_train.image.dicom import is_dicom
from vglm_train.image.dicom.frames import stored_values
from vglm_train.image.dicom.header import Header, guarded, header_of, read_dataset
from vglm_train.image.dicom.pixels import render_dataset
from vglm_train.image.dicom.private import Salt, tags_of
from vglm_train.image.dicom.text import has_corner_text

if TYPE_CHECKING:
    from pydicom import Dataset

BURNED_IN = "text is burned into its pixels by its own tag, Burned In Annotation"
OTHER = "no DICOM"
HASHED = UIDS | {"PatientID", "PatientName"}


@dataclass(frozen=True)
class Plan:
    """`out`: the folder that is being filled. `burned_in`: whether files that say so themselves are kept."""

    out: Path
    salt: Salt
    burned_in: bool


class Outcome(NamedTuple):
    """What came of a file. `fault`: why it is left out; `name`: of the file that was written, within `out`."""

    fault: str | None = None
    name: str = ""
    dropped: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()
    corner_text: bool = False


def clean_file(plan: Plan, path: Path) -> Outcome:
    """Write a file anew, under a name of hashes."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return Outcome(f"a file that cannot be read ({error.strerror})")
    if not is_dicom(data):
        return Outcome(OTHER)
    try:
        return _clean(plan, data)
    except ImageError as error:
        return Outcome(error.what)


def _clean(plan: Plan, data: bytes) -> Outcome:
    dataset = read_dataset(data, whole=True)
    header = header_of(dataset)
    with guarded():
        if dataset.get("BurnedInAnnotation") == "YES" and not plan.burned_in:
            return Outcome(BURNED_IN)
        found = tags_of(dataset)
        text = has_corner_text(render_dataset(dataset).image)
        out = _allowed(dataset, plan.salt)
        _identify(out, dataset, plan.salt, data)
        _write_pixels(out, dataset, header)
        kept = tags_of(out)
        patient, study = str(out.PatientID), plan.salt.hash("study", str(out.StudyInstanceUID))
        name = f"{patient}/{study}/{plan.salt.hash('file', hashlib.sha256(data).hexdigest())}.dcm"
        path = plan.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        out.save_as(path, enforce_file_format=True)
        return Outcome(None, name, frozenset(found.keys() - kept.keys()), frozenset(kept), text)


def _allowed(dataset: "Dataset", salt: Salt) -> "Dataset":
    """A new data set with what is allowed of a data set, or of an item of a sequence."""
    from pydicom import Dataset
    from pydicom.datadict import keyword_for_tag

    out = Dataset()
    for tag in sorted(dataset.keys()):
        keyword = "" if tag.is_private else keyword_for_tag(tag)
        try:
            value = _value(dataset, keyword, salt)
        except (ValueError, TypeError, AttributeError, KeyError, OverflowError):
            continue  # it is not what its tag says it is
        if value is not None:
            out.add_new(tag, dataset[tag].VR, value)
    return out


def _value(dataset: "Dataset", keyword: str, salt: Salt) -> Any:
    """What is kept of a tag; None: nothing."""
    if keyword in NUMBERS:
        return _numbers(dataset[keyword])
    if keyword in TABLES:
        return dataset[keyword].value
    if keyword in SEQUENCES:
        from pydicom.sequence import Sequence

        return Sequence([_allowed(item, salt) for item in dataset[keyword].value])
    if keyword in UIDS and dataset[keyword].value:
        return salt.uid(str(dataset[keyword].value))
    words = WORDS.get(keyword)
    if words is None:
        return None
    value = dataset[keyword].value
    several = [str(each) for each in value] if not isinstance(value, str) else [value]
    letters = {letter for word in several for letter in word} if keyword == "PatientOrientation" else set(several)
    return (several if len(several) > 1 else several[0]) if several and letters <= words else None


def _numbers(element: Any) -> Any:
    """A number or several, as what they are and not as they were written."""
    from pydicom.valuerep import DSfloat

    value = element.value
    if value is None or value == "":
        return None
    several = list(value) if element.VM > 1 else [value]
    if element.VR == "DS":
        plain: list[Any] = [DSfloat(float(each), auto_format=True) for each in several]
    else:
        plain = [float(each) if element.VR in ("FD", "FL") else int(each) for each in several]
    return plain if len(plain) > 1 else plain[0]


def _identify(out: "Dataset", dataset: "Dataset", salt: Salt, data: bytes) -> None:
    """Whose it is and what it belongs to, as hashes."""
    from pydicom import uid
    from pydicom.dataset import FileMetaDataset

    content = hashlib.sha256(data).hexdigest()
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        if keyword not in out:
            setattr(out, keyword, salt.uid(f"{keyword} {content}"))
    kind = uid.UID(str(dataset.get("SOPClassUID") or ""))
    out.SOPClassUID = kind if kind.type == "SOP Class" else uid.SecondaryCaptureImageStorage
    out.PatientID = salt.patient(dataset) or salt.hash("study", str(out.StudyInstanceUID))
    out.PatientName = out.PatientID
    out.PatientIdentityRemoved = "YES"
    out.DeidentificationMethod = "vglm data deidentify: allow list, salted hashes; pixels as they were"
    out.file_meta = FileMetaDataset()
    out.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    out.file_meta.MediaStorageSOPClassUID = out.SOPClassUID
    out.file_meta.MediaStorageSOPInstanceUID = out.SOPInstanceUID


def _write_pixels(out: "Dataset", dataset: "Dataset", header: Header) -> None:
    """All frames, decoded: comments within compressed pixels, what follows the last pixel, and overlays in bits that
    the pixels do not use (pydicom clears them) are gone."""
    if "PixelData" not in dataset:
        raise ImageError("undecodable", "DICOM of floating-point pixels, which is not written")
    frames = np.stack([stored_values(dataset, header, number) for number in range(header.frames)])
    if frames.dtype.byteorder == ">":
        frames = frames.astype(frames.dtype.newbyteorder("<"))
    size = 8 * frames.dtype.itemsize
    colour = frames.ndim == 4
    out.SamplesPerPixel, out.BitsAllocated = 3 if colour else 1, size
    if colour:
        out.PhotometricInterpretation, out.PlanarConfiguration = "RGB", 0
    pixels = np.ascontiguousarray(frames).tobytes()
    out.PixelData = pixels + b"\0" * (len(pixels) % 2)
    out["PixelData"].VR = "OB" if size == 8 else "OW"


def count(outcomes: list[Outcome]) -> tuple[Counter[str], Counter[str]]:
    """Files that had each tag that is dropped; files that keep each tag."""
    dropped: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    for outcome in outcomes:
        dropped.update(outcome.dropped)
        kept.update(outcome.kept)
    return dropped, kept
