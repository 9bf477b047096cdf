"""Whether a text names the patient of a DICOM, one of its numbers or its dates, in the forms that people write them."""

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom import Dataset

NUMBERS = ("PatientID", "AccessionNumber", "StudyID")
DATES = ("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
SHORTEST = 5  # characters of a number: shorter ones stand in texts by chance

_ESCAPE = re.compile(rb"\x1b[$(-/]+[@-Z]")  # between character sets of ISO 2022

Names = tuple[tuple[str, str], ...]  # tag, and what a text would hold


def names_of(dataset: "Dataset") -> Names:
    """Names, numbers and dates of a data set, as they would stand in a text."""
    return tuple(dict.fromkeys(_names(dataset)))


def tags_in(texts: Iterable[str], names: Names) -> list[str]:
    """The tags whose values stand in the texts."""
    text = "\n".join(texts).lower()
    return list(dict.fromkeys(tag for tag, name in names if _stands_in(name.lower(), text)))


def _stands_in(name: str, text: str) -> bool:
    """As a word of its own; between Chinese characters there are no spaces."""
    start = r"(?<![a-z0-9])" if name[0].isascii() else ""
    end = r"(?![a-z0-9])" if name[-1].isascii() else ""
    return re.search(start + re.escape(name) + end, text) is not None


def _names(dataset: "Dataset") -> Iterator[tuple[str, str]]:
    for tag in ("PatientName", "OtherPatientNames"):
        several = dataset.get(tag) or ()
        for name in [several] if hasattr(several, "family_name") else several:
            yield from ((tag, form) for text in _readings(name) for form in _forms_of_name(text))
    for tag in NUMBERS:
        value = str(dataset.get(tag) or "").strip()
        if len(value) >= SHORTEST:
            yield tag, value
    for tag in DATES:
        value = str(dataset.get(tag) or "")
        if len(value) == 8 and value.isdecimal():
            yield from ((tag, form) for form in _forms_of_date(value))


def _readings(name: Any) -> Iterator[str]:
    """A name as its file declares it, and as the character sets of China have it: many files declare a wrong one."""
    yield str(name)
    stored = getattr(name, "original_string", b"")
    if isinstance(stored, bytes) and not stored.isascii():
        plain = _ESCAPE.sub(b"", stored)
        yield from (plain.decode(encoding, "ignore") for encoding in ("gb18030", "utf-8"))


def _forms_of_name(name: str) -> Iterator[str]:
    """WANG^Xiaoming=王^小明: the name in each writing, family first or last. A part alone may be any word."""
    for writing in name.split("="):
        parts = [part.strip() for part in writing.split("^")[:3] if part.strip()]
        if len(parts) < 2:
            whole = "".join(parts)
            if len(whole) >= (SHORTEST if whole.isascii() else 2):
                yield whole
            continue
        family, given = parts[0], " ".join(parts[1:])
        yield from (f"{family} {given}", f"{given} {family}", f"{family}, {given}", f"{family}{given}")


def _forms_of_date(date: str) -> Iterator[str]:
    year, month, day = date[:4], date[4:6], date[6:]
    for m, d in {(month, day), (str(int(month)), str(int(day)))}:
        yield from (f"{year}{sign}{m}{sign}{d}" for sign in "-/.")
        yield from (f"{d}{sign}{m}{sign}{year}" for sign in "-/.")
        yield from (f"{m}{sign}{d}{sign}{year}" for sign in "-/.")
        yield f"{year}年{m}月{d}日"
    yield date
