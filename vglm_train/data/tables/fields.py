"""Which key or column of a table holds what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from vglm_train.config.data import Fields
from vglm_train.errors import UserError

KNOWN: Mapping[str, tuple[str, ...]] = {
    "image": (
        "image", "img", "images", "image_path", "img_path", "img_name", "image_name", "file_name", "filename", "path",
    ),
    "question": ("question", "prompt", "query", "instruction"),
    "answer": (
        "answers", "answer", "label", "response", "output", "captions", "caption", "report", "caption_en", "caption_zh",
        "captions_en", "captions_zh", "text",
    ),
    "turns": ("turns", "conversations", "messages"),
    "group": ("group", "patient", "patient_id", "patientid", "PatientID", "subject_id", "study", "study_id"),
    "kind": ("kind", "answer_type"),
    "language": ("language", "lang", "q_lang"),
    "type": ("type", "question_type", "content_type"),
    "id": ("id", "question_id", "qid"),
    "options": ("options", "choices"),
    "image_id": ("image_id",),
    "split": ("split",),
}  # fmt: skip
"""By what is held: names that people use, the first that a row has a value under counts."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The keys of this table to look under, in order."""

    image: tuple[str, ...]
    question: tuple[str, ...]
    answer: tuple[str, ...]
    turns: tuple[str, ...]
    group: tuple[str, ...]
    kind: tuple[str, ...]
    language: tuple[str, ...]
    type: tuple[str, ...]
    id: tuple[str, ...]
    options: tuple[str, ...]
    image_id: tuple[str, ...]
    split: tuple[str, ...]

    @property
    def kept(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """What a record takes as it stands, with the keys that it may be under."""
        named = (("id", self.id), ("group", self.group), ("type", self.type), ("split", self.split))
        return tuple((name, keys) for name, keys in named if keys)


def value(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """What the row holds under the first of the names that has something; None where none has."""
    for name in names:
        found = row.get(name)
        if found or found == 0:
            return found
    return None


def resolve(path: Path, keys: Sequence[str], given: Fields) -> Columns:
    """The columns of a table that has `keys`. UserError lists what is there and what is known."""
    columns = Columns(**{part.name: _names(path, part.name, keys, given) for part in fields(Columns)})
    pictures = columns.image or columns.image_id  # MiniGPT-4 and XrayGLM name the picture by its id
    for what, found in (("image", pictures), ("answer", columns.turns or columns.answer)):
        if not found:
            raise UserError(_missing(path, what, keys))
    return columns


def _names(path: Path, what: str, keys: Sequence[str], given: Fields) -> tuple[str, ...]:
    name = getattr(given, what, None)
    if name is None:
        return tuple(known for known in KNOWN[what] if known in keys)
    if name not in keys:
        near = get_close_matches(name, keys, 1, 0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{path}: fields.{what} asks for {name!r}, but the rows have {_listed(keys)}.{hint}")
    return (name,)


def _missing(path: Path, what: str, keys: Sequence[str]) -> str:
    needs = {
        "image": f"no key that is known to hold a picture ({', '.join(KNOWN['image'])})",
        "answer": f"no key that is known to hold an answer ({', '.join(KNOWN['answer'])}) or a dialogue "
        f"({', '.join(KNOWN['turns'])})",
    }[what]
    fields_of = "fields.image" if what == "image" else "fields.answer or fields.turns"
    there = f"check_table: --field {what}=KEY; evaluate: --fields {what}=KEY"
    return f"{path}: {needs}; the rows have {_listed(keys)}. Name yours as {fields_of} of the source ({there})."


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(map(repr, keys)) or "no keys at all"
