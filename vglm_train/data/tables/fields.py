"""Which key or column of a table holds what: the one list of names, of tables and of `data_tools.convert`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from vglm_train.config.data import Fields
from vglm_train.config.validation import FieldError
from vglm_train.errors import UserError

KNOWN: Mapping[str, tuple[str, ...]] = {
    "image": (
        "image", "img", "images", "image_path", "img_path", "img_name", "image_name", "file_name", "filename", "path",
        "filepath", "jpg", "png", "webp",
    ),
    "question": ("question", "prompt", "query", "instruction"),
    "answer": (
        "answers", "answer", "label", "response", "output", "captions", "caption", "report", "caption_en", "caption_zh",
        "captions_en", "captions_zh", "text",
    ),
    "caption": (
        "captions", "caption", "text", "txt", "sentences", "sentence", "raw", "title", "alt_text", "TEXT",
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
"""By what is held: names that people use, the first that a row has a value under counts. `caption`: of rows that only
describe their picture; a table looks there if it has no answer, `convert` first of all."""


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
    def pictures(self) -> tuple[str, ...]:
        """MiniGPT-4 and XrayGLM name the picture by its id."""
        return self.image or self.image_id


def value(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """What the row holds under the first of the names that has something; None where none has."""
    for name in names:
        held = row.get(name)
        if held or held == 0:
            return held
    return None


def resolve(path: Path | str, keys: Sequence[str], named: Fields, answered: bool = True) -> Columns:
    """The columns of a table that has `keys`; `named` ones are taken as they are. `answered`: it must hold answers.

    UserError lists what is there and what is known.
    """
    columns = Columns(**{part.name: _names(path, part.name, keys, named) for part in fields(Columns)})
    if not (columns.answer or columns.turns):
        columns = replace(columns, answer=known("caption", keys))
    for what, names in (("image", columns.pictures), ("answer", columns.turns or columns.answer)):
        if not names and (answered or what == "image"):
            raise UserError(_missing(path, what, keys))
    return columns


def parse_fields(argument: str | None) -> Fields:
    """What --fields says, image=path,question=q. UserError for a wrong one."""
    pairs = dict(part.partition("=")[::2] for part in (argument or "").split(",") if part)
    names = [field.name for field in fields(Fields)]
    for name in pairs:
        if name not in names:
            raise UserError(f"--fields {argument}: {name!r} is none of {', '.join(names)}; give {names[0]}=COLUMN,...")
    try:
        return Fields(**pairs)
    except FieldError as error:
        raise UserError(f"--fields {argument}: {error}") from error


def known(what: str, keys: Sequence[str]) -> tuple[str, ...]:
    """Those of `keys` that are known to hold `what`, a key of KNOWN."""
    return tuple(name for name in KNOWN[what] if name in keys)


def _names(path: Path | str, what: str, keys: Sequence[str], named: Fields) -> tuple[str, ...]:
    name = getattr(named, what, None)
    if name is None:
        return known(what, keys)
    if name not in keys:
        near = get_close_matches(name, keys, 1, 0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{path}: fields.{what} asks for {name!r}, but the rows have {_listed(keys)}.{hint}")
    return (name,)


def _missing(path: Path | str, what: str, keys: Sequence[str]) -> str:
    needs = {
        "image": f"no key that is known to hold a picture ({', '.join(KNOWN['image'])})",
        "answer": f"no key that is known to hold an answer ({', '.join(KNOWN['answer'])}) or a dialogue "
        f"({', '.join(KNOWN['turns'])})",
    }[what]
    option = "fields.image" if what == "image" else "fields.answer or fields.turns"
    commands = f"check_table, convert: --field {what}=KEY; evaluate: --fields {what}=KEY"
    return f"{path}: {needs}; the rows have {_listed(keys)}. Name yours as {option} of the source ({commands})."


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(map(repr, keys)) or "no keys at all"
