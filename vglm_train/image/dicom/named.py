"""Whether a text holds what a DICOM's header says of people, places, numbers and dates, in the forms people write.

A patient who is called as an ordinary word (Long, Grey) costs the rows with that word: a row too few is no harm. A
Chinese surname of one character is looked for with the given name or a title alone, since most are ordinary words.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from vglm_train.image.dicom.written_date import date_forms

if TYPE_CHECKING:
    from pydicom import Dataset

PATIENT = ("PatientName", "OtherPatientNames", "PatientBirthName", "ResponsiblePerson")
DOCTORS = (
    "ReferringPhysicianName", "PerformingPhysicianName", "NameOfPhysiciansReadingStudy", "PhysiciansOfRecord",
    "RequestingPhysician", "ConsultingPhysicianName", "OperatorsName",
)  # fmt: skip
PLACES = ("InstitutionName",)
NUMBERS = ("PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "StudyInstanceUID")
DATES = ("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
SHORTEST = 5  # characters of a number: shorter ones stand in texts by chance
MIXED = 4  # characters of a number with letters, as S011: T12 is a vertebra
CALLED = 3  # digits of a number after a word that says that it is one
LETTERS = 3  # of a part of a name that is looked for alone
NOBODY = frozenset({
    "anon", "anonymised", "anonymized", "anonymous", "baby", "boy", "child", "deidentified", "doctor", "doe",
    "female", "girl", "hospital", "infant", "male", "man", "name", "nobody", "none", "null", "patient", "phantom",
    "physician", "prof", "radiologist", "removed", "subject", "test", "the", "unknown", "woman",
})  # fmt: skip
"""What stands in tags of names and names nobody."""
TITLES = "女士|先生|小姐|某|医生|医师|主任|大夫|教授"
DOUBLE = frozenset({
    "欧阳", "司马", "上官", "诸葛", "东方", "皇甫", "尉迟", "公孙", "慕容", "令狐", "夏侯", "司徒",
    "长孙", "宇文", "轩辕", "南宫", "端木", "独孤", "拓跋", "钟离", "闻人", "百里", "呼延", "申屠",
    "澹台", "淳于", "公冶", "太史", "濮阳", "赫连", "东郭", "西门",
})  # fmt: skip
"""Chinese surnames of two characters, for names that are written as one word."""

_ESCAPE = re.compile(rb"\x1b[$(-/]+[@-Z]")  # between character sets of ISO 2022
_HAN = "㐀-鿿"
_START, _END = rf"(?<![^\W_{_HAN}])", rf"(?![^\W_{_HAN}])"  # of a word; between Chinese characters there are no spaces
_LOOSE = re.compile(rf"(?<=[{_HAN}])\s+(?=[\d{_HAN}])|(?<=\d)\s+(?=[{_HAN}])")
_CALLED = r"(?:accession|acc|exam|id|mrn|no|nr|number|patient|study|号|#)[\s.:：#]{0,3}"

Names = tuple[tuple[str, str], ...]  # tag, and a value that a text may hold


def names_of(dataset: "Dataset") -> Names:
    """Names, places, numbers and dates of a data set."""
    return tuple(dict.fromkeys((tag, value) for tag, value in _names(dataset) if value))


def tags_in(texts: Iterable[str], names: Names) -> list[str]:
    """The tags whose values stand in the texts."""
    text = _plain("\n|\n".join(texts))
    return list(dict.fromkeys(tag for tag, value in names if (found := _pattern(tag, value)) and found.search(text)))


def _plain(text: str) -> str:
    """Small letters without accents, one form of each character, no spaces beside Chinese characters."""
    apart = unicodedata.normalize("NFKD", text.replace("’", "'"))
    text = unicodedata.normalize("NFKC", "".join(each for each in apart if not unicodedata.combining(each))).lower()
    return _LOOSE.sub("", re.sub(r"\s+", " ", text))


@lru_cache(1 << 14)
def _pattern(tag: str, value: str) -> re.Pattern[str] | None:
    """All forms of a value as one expression; None where it has none that could be told from other words."""
    value = _plain(value)
    forms: Iterable[str]
    if tag in DATES:
        forms = date_forms(value)
    elif tag in NUMBERS:
        forms = _number_forms(value)
    elif tag in PLACES:
        forms = [_word(value)] if len(value) >= (SHORTEST if value.isascii() else 3) and value not in NOBODY else []
    else:
        forms = (form for writing in value.split("=") for form in _name_forms(writing))
    every = list(dict.fromkeys(forms))
    return re.compile("|".join(every)) if every else None


def _word(value: str) -> str:
    """As a word of its own."""
    return _START + re.escape(value) + _END if not _is_han(value) else re.escape(value)


def _is_han(value: str) -> bool:
    return re.fullmatch(rf"[{_HAN}]+", value) is not None


def _names(dataset: "Dataset") -> Iterator[tuple[str, str]]:
    for tag in (*PATIENT, *DOCTORS):
        yield from ((tag, text) for name in _several(dataset.get(tag)) for text in _readings(name))
    for tag in (*PLACES, *NUMBERS, *DATES):
        yield from ((tag, str(value).strip()) for value in _several(dataset.get(tag)))


def _several(value: Any) -> Iterable[Any]:
    if value is None:
        return ()
    return [value] if isinstance(value, str) or hasattr(value, "family_name") else value


def _readings(name: Any) -> Iterator[str]:
    """A name as its file declares it, and as the character sets of China have it: many files declare a wrong one."""
    yield str(name)
    stored = getattr(name, "original_string", b"")
    if isinstance(stored, bytes) and not stored.isascii():
        plain = _ESCAPE.sub(b"", stored)
        yield from (plain.decode(encoding, "ignore") for encoding in ("gb18030", "utf-8"))


def _number_forms(value: str) -> Iterator[str]:
    if value.isdecimal() and len(value) >= SHORTEST:  # texts leave zeros out, and part long numbers
        digits = value.lstrip("0") or value
        yield rf"(?<!\d)0*{'[ .-]?'.join(digits)}(?!\d)" if len(digits) >= SHORTEST else _word(value)
    elif len(value) >= SHORTEST or (len(value) >= MIXED and not value.isdecimal() and not value.isalpha()):
        yield _word(value)
    elif len(value) >= CALLED and value.isdecimal():
        yield rf"(?:{_START}|(?<=号)){_CALLED}{value}(?!\d)"


def _name_forms(writing: str) -> Iterator[str]:
    """wang^xiaoming: the whole name, family first or last, and each part that is long enough."""
    parts = [part.strip() for part in writing.split("^")[:3] if part.strip()]
    if parts and all(_is_han(part.replace(" ", "")) for part in parts):
        yield from _chinese_forms([part.replace(" ", "") for part in parts])
        return
    if len(parts) > 1:
        family, given = parts[0], " ".join(parts[1:])
        together = (f"{family} {given}", f"{given} {family}", f"{family}, {given}", f"{family}{given}")
        yield from map(_word, together)
    elif parts and len(parts[0]) >= SHORTEST and parts[0] not in NOBODY:
        yield _word(parts[0])
    for word in (word for part in parts for word in re.split(r"[\s,.\-]+", part)):
        letters = sum(letter.isalpha() for letter in word)
        if letters >= LETTERS and word not in NOBODY:
            yield _word(word)
        elif letters == len(word) == LETTERS - 1:
            yield rf"{_START}(?:mr|mrs|ms|miss|dr|prof)\.? ?{re.escape(word)}{_END}"


def _chinese_forms(parts: list[str]) -> Iterator[str]:
    """王^小明 or 王小明."""
    whole = "".join(parts)
    split = len(parts[0]) if len(parts) > 1 else 2 if whole[:2] in DOUBLE and len(whole) > 2 else 1
    family, given = whole[:split], whole[split:]
    if given:
        yield from (whole, given + family)
    yield f"{family}(?:{TITLES})"
    yield from (part for part in (family, given) if len(part) > 1)
