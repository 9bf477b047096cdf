"""Which key or column of a table holds what: the one list of names, of tables and of `data_tools.convert`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from vglm_train.config.data import Fields
from vglm_train.data.tables.cells import is_missing
from vglm_train.data.tables.choices import columns_of
from vglm_train.errors import UserError
from vglm_train.image import SUFFIXES

KNOWN: Mapping[str, tuple[str, ...]] = {
    "image": (
        "image", "img", "images", "image_path", "img_path", "img_name", "image_name", "file_name", "filename", "path",
        "filepath", "figure_path", *SUFFIXES,
        "图片", "图像", "影像", "图片路径", "图像路径", "影像路径", "图片名", "文件名",
    ),
    "question": ("question", "prompt", "query", "instruction", "问题", "提问"),
    "context": ("context", "hint"),
    "input": ("input",),
    "history": ("history",),
    "answer": (
        "answers", "answer", "label", "response", "output", "captions", "caption", "report", "caption_en", "caption_zh",
        "captions_en", "captions_zh", "report_en", "report_zh", "text", "answer_label", "multiple_choice_answer",
        "correct_answer", "gt_answer",
        "答案", "回答", "报告", "影像所见", "所见", "描述",
    ),
    "caption": (
        "captions", "caption", "caption_en", "caption_zh", "captions_en", "captions_zh", "text_en", "text_zh", "report",
        "report_en", "report_zh", "text", "txt", "sentences", "sentence", "raw", "title", "alt_text", "报告",
        "影像所见", "所见", "描述",
    ),
    "turns": ("turns", "conversations", "messages"),
    "group": (
        "group", "patient", "patient_id", "patientid", "subject_id", "study", "study_id", "患者", "患者编号", "患者id",
        "病人", "病人编号", "检查号",
    ),
    "kind": ("kind", "answer_type"),
    "language": ("language", "lang", "q_lang"),
    "type": ("type", "question_type", "content_type"),
    "id": ("id", "question_id", "qid"),
    "options": ("options", "choices"),
    "image_id": ("image_id",),
    "split": ("split",),
}  # fmt: skip
"""By what is held: names that people use, in small letters with _ between words; a key is compared in that form, so
"Patient ID" is patient_id. The first that a row has a value under counts. `context` is put before the question, `input`
after it, `history` are earlier turns. `options`: also a column for each choice, see choices.py. `caption`: of tables
that ask nothing, in which these come before the names of answers."""

RULES = ("fixed_question", "first_choice")  # of Columns: not what is held, but how it is read


@dataclass(frozen=True, slots=True)
class Columns:
    """The keys of this table to look under, in order."""

    image: tuple[str, ...]
    question: tuple[str, ...]
    context: tuple[str, ...]
    input: tuple[str, ...]
    history: tuple[str, ...]
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
    first_choice: int = 0  # the number of a question's first choice, where answers are numbers
    fixed_question: tuple[str, ...] = ()  # that `fields` names without naming options: choices are not added to it

    @property
    def pictures(self) -> tuple[str, ...]:
        """MiniGPT-4 and XrayGLM name the picture by its id."""
        return self.image or self.image_id


def describe_columns(columns: Columns) -> str:
    """In words: what is read, and the keys that it is looked for under."""
    named = {part.name: getattr(columns, part.name) for part in fields(Columns) if part.name not in RULES}
    if not columns.image:
        named |= {"image": columns.pictures, "image_id": ()}
    joined = ((what, (" and " if what == "options" else " or ").join(keys)) for what, keys in named.items() if keys)
    return "read: " + ", ".join(f"{what} from {keys}" for what, keys in joined)


def value(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """What the row holds under the first of the names that has something; None where none has."""
    for name in names:
        held = row.get(name)
        if held is None:  # most often, and this runs for every column of every row
            continue
        if not is_missing(held):
            return held
    return None


def key_of(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The name that `value` reads."""
    return next((name for name in names if not is_missing(row.get(name))), None)


def by_language(row: Mapping[str, Any], columns: Columns) -> list[str]:
    """The answer columns with a value whose names end in a language, _en or _zh: all of them are read."""
    return [name for name in columns.answer if name[-3:].lower() in ("_en", "_zh") and not is_missing(row.get(name))]


def resolve(path: Path | str, keys: Sequence[str], named: Fields, answered: bool = True) -> Columns:
    """The columns of a table that has `keys`; `named` ones are taken as they are. `answered`: it must hold answers.

    UserError lists what is there and what is known.
    """
    parts = [part.name for part in fields(Columns) if part.name not in RULES]
    found: dict[str, Any] = {what: _names(path, what, keys, named) for what in parts}
    columns = Columns(**found)
    if named.question and named.options is None:
        columns = replace(columns, fixed_question=columns.question)
    asks = columns.question or columns.input or columns.turns or columns.options
    if named.answer is None and not (asks and (columns.answer or columns.turns)):
        columns = replace(columns, answer=tuple(dict.fromkeys((*known("caption", keys), *columns.answer))))
    for what, names in (("image", columns.pictures), ("answer", columns.turns or columns.answer)):
        if not names and (answered or what == "image"):
            raise UserError(_missing(path, what, keys))
    return columns


def known(what: str, keys: Sequence[str]) -> tuple[str, ...]:
    """Those of `keys` that are known to hold `what`, a key of KNOWN."""
    plain = {key: key.strip().lower().replace(" ", "_").replace("-", "_") for key in keys}
    found = tuple(key for name in KNOWN[what] for key in keys if plain[key] == name)
    return found or columns_of(keys) if what == "options" else found


def _names(path: Path | str, what: str, keys: Sequence[str], named: Fields) -> tuple[str, ...]:
    name = getattr(named, what, None)
    if name is None:
        return known(what, keys)
    if not name:
        return ()
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
