"""Which view a picture shows: PA, AP, LATERAL and so on, told from tags; nothing else of the tags is passed on.

The first tag that tells counts: View Position, View Code Sequence, Patient Orientation (frontal or lateral), and as the
last resort Series Description, where it names one view.
"""

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from vglm_train.image.dicom.header import guarded

if TYPE_CHECKING:
    from pydicom import Dataset

UNKNOWN = "UNKNOWN"
FRONTAL, LATERAL = ("PA", "AP", "FRONTAL"), ("LATERAL",)
ORDER = (*FRONTAL, *LATERAL, "OBLIQUE", "DECUBITUS", "CC", "MLO", "ML", UNKNOWN)
"""All views, in the order in which a record shows them."""
TAGS = ("ViewPosition", "ViewCodeSequence", "PatientOrientation", "SeriesDescription")
"""Keywords of the tags, in the order in which they are asked."""
READ = ("Modality", *TAGS)

POSITIONS = {
    "PA": "PA", "AP": "AP", "FRONTAL": "FRONTAL",
    **dict.fromkeys(("LL", "RL", "LAT", "LATERAL", "LLAT", "RLAT"), "LATERAL"),
    **dict.fromkeys(("LLD", "RLD", "DECUB", "DECUBITUS"), "DECUBITUS"),
    **dict.fromkeys(("RAO", "LAO", "RPO", "LPO", "LLO", "RLO", "OBL", "OBLIQUE"), "OBLIQUE"),
    "CC": "CC", "MLO": "MLO", "ML": "ML", "LM": "ML",
}  # fmt: skip
"""Values of View Position, without spaces and signs."""
CODES = {
    **dict.fromkeys(("272479007", "R-40888"), "PA"),
    **dict.fromkeys(("399348003", "R-10206"), "AP"),
    **dict.fromkeys(("399033003", "R-10202"), "FRONTAL"),
    **dict.fromkeys(("399067008", "R-102CD", "399173006", "R-10236", "399198007", "R-10232"), "LATERAL"),
    **dict.fromkeys(("399182000", "R-102C1", "399135007", "R-10220", "399356000", "R-40985"), "OBLIQUE"),
    **dict.fromkeys(("399184004", "R-10238", "399236003", "R-10234", "260427002", "R-40783"), "OBLIQUE"),
    **dict.fromkeys(("399006002", "R-10212", "399038007", "R-10210", "399160007", "R-10204"), "OBLIQUE"),
    **dict.fromkeys(("399059000", "R-10216", "399312000", "R-10208"), "OBLIQUE"),
    **dict.fromkeys(("399162004", "R-10242"), "CC"),
    **dict.fromkeys(("399368009", "R-10226"), "MLO"),
    **dict.fromkeys(("399260004", "R-10224", "399352003", "R-10228"), "ML"),
}
"""Code values of View Code Sequence, of SNOMED CT and of SRT (DICOM's context groups 4010 and 4014)."""
WORDS = {
    "PA": r"\bPA\b|\bP\.A\.|postero.?anterior|后前位",
    "AP": r"\bAP\b|\bA\.P\.|antero.?posterior|前后位",
    "FRONTAL": r"\bfrontal\b|正位",
    "LATERAL": r"\blat(?:eral)?\b|(?<![正卧])侧位",
    "OBLIQUE": r"\b(?:RAO|LAO|RPO|LPO|obl(?:ique)?)\b|斜位",
    "DECUBITUS": r"\bdecub(?:itus)?\b|卧侧位",
}
"""In a Series Description, as regular expressions."""


class View(NamedTuple):
    """One of ORDER, and the tag of TAGS that tells; None where none does."""

    name: str
    told_by: str | None


def view_of(dataset: "Dataset") -> View:
    """The view of a data set. ImageError where its tags cannot be read."""
    mammogram = dataset.get("Modality") == "MG"  # whose rows run towards the nipple
    readers = (_of_position, _of_code, _of_orientation, _of_description)
    with guarded():
        for tag, reader in zip(TAGS, readers):
            if tag == "PatientOrientation" and mammogram:
                continue
            if (held := dataset.get(tag)) and (name := reader(held)):
                return View(name, tag)
    return View(UNKNOWN, None)


def _of_position(held: Any) -> str | None:
    return POSITIONS.get(re.sub(r"[\W_]", "", str(held)).upper())


def _of_code(held: Any) -> str | None:
    return next((CODES[code] for item in held if (code := str(item.get("CodeValue", "")).strip()) in CODES), None)


def _of_orientation(held: Any) -> str | None:
    """Rows along left and right: frontal; along front and back: lateral; for both, columns go along the body."""
    directions = [str(each)[:1] for each in held]
    if len(directions) != 2 or directions[1] not in ("F", "H"):
        return None
    return {"L": "FRONTAL", "R": "FRONTAL", "A": "LATERAL", "P": "LATERAL"}.get(directions[0])


def _of_description(held: Any) -> str | None:
    """None where it names several: "PA and lateral" is the description of both. PA or AP says more than frontal."""
    text = str(held).replace("_", " ")
    found = [name for name, words in WORDS.items() if re.search(words, text, re.IGNORECASE)]
    if len(found) == 2 and "FRONTAL" in found:
        found.remove("FRONTAL")
    return found[0] if len(found) == 1 else None
