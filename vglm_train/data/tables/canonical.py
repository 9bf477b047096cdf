"""A table's row, in whichever of the layouts people have, as a record.

`read_row` alone says whether a row can be used: the index, training, evaluation, `check_table` and `convert` all call
it. What one cell says is in cells.py, lists of answers in answers.py, choices in choices.py, dialogues in turns.py and
pictures in pictures.py.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from vglm_train.data.record import RecordError, parse
from vglm_train.data.tables.answers import answers_of, texts_of
from vglm_train.data.tables.cells import answer_text, is_missing, number_text, says_nothing
from vglm_train.data.tables.fields import Columns, value
from vglm_train.data.tables.pictures import Picture, pictures_in
from vglm_train.data.tables.questions import language_of, row_texts
from vglm_train.data.tables.turns import dialogue_turns, open_turns
from vglm_train.prompt.dialogue import IMAGE, ImageMarkMismatch, check_marks

__all__ = ["NoPicture", "RowReading", "label", "labels", "pictures_of", "read_row", "texts_of", "to_record"]

LANGUAGES = {"zh": "zh", "chinese": "zh", "cn": "zh", "中文": "zh", "en": "en", "english": "en", "英文": "en"}
KINDS = {
    name: kind
    for kind, names in {
        "closed": "closed close closed_ended close_ended yes/no yes_no yesno y/n binary boolean multiple_choice "
        "multi_choice single_choice choice mcq 封闭 封闭式 封闭题 封闭性 是非 是非题 判断题 选择题 单选题",
        "open": "open open_ended opened number other free_form freeform short_answer 开放 开放式 开放题 开放性 问答题",
        "report": "report 报告",
    }.items()
    for name in names.split()
}
UNKNOWN = "not known"  # in place of an answer
UNKNOWN_KIND = "an answer type that is not known, so that the answers tell it"
UNKNOWN_LANGUAGE = "a language that is not known, so that the text tells it"


class NoPicture(RecordError):  # noqa: N818  (an observation)
    """A row of text alone."""

    def __init__(self) -> None:
        super().__init__("image", "the row names no picture")


class RowReading(NamedTuple):
    """A row that can be used. `pictures`: each a path as it is written, or the file's bytes."""

    record: dict[str, Any]
    pictures: list[Picture]
    notes: tuple[str, ...]  # what of it is left out or doubtful, each once, as "WHAT" or "WHAT: DETAIL"


def read_row(row: Mapping[str, Any], columns: Columns) -> RowReading:
    """The row as a record: `turns` [{role: user|assistant, text}] where something is asked, else `captions`; `answers`
    where the last question has several; `options` where it has choices.

    RecordError where it cannot be trained on; NoPicture where that is all it lacks.
    """
    notes: list[str] = []
    pictures = pictures_of(row, columns)
    record: dict[str, Any] = labels(row, columns)
    turns = value(row, columns.turns)
    if turns is not None:
        record["turns"], inside = dialogue_turns(turns, notes)
    else:
        texts, inside = row_texts(row, columns, notes)
        record |= texts
    own = isinstance(row.get("captions"), dict) or "turns" in row
    if own:
        record |= _kept(row, record, notes)
    record["language"] = _language(value(row, columns.language), record, notes)
    if kind := _kind(row, columns, record, notes):
        record["kind"] = kind
    pictures = pictures or inside
    if not pictures:
        raise NoPicture
    _check_marks(record, len(pictures))
    names = [picture if isinstance(picture, str) else "" for picture in pictures]
    record["image"] = names[0] if len(names) == 1 else names
    if own:
        parse(record)  # RecordError for what its further fields hold
    return RowReading(record, pictures, tuple(dict.fromkeys(notes)) if notes else ())


def to_record(row: Mapping[str, Any], columns: Columns) -> tuple[dict[str, Any], list[Picture]]:
    """Record and pictures of `read_row`."""
    return read_row(row, columns)[:2]


def question_of(row: Mapping[str, Any], columns: Columns) -> tuple[str, list[tuple[str, str]], list[Picture]]:
    """The row's last question with its choices ("" where it asks nothing), the questions and answers before it, and its
    pictures. Marks of pictures are left out.

    RecordError as `read_row`, but for answers, which the row need not have.
    """
    notes: list[str] = []
    pictures, dialogue = pictures_of(row, columns), value(row, columns.turns)
    if dialogue is not None:
        turns, inside = open_turns(dialogue, notes)
    else:
        texts, inside = row_texts({**row, UNKNOWN: UNKNOWN}, replace(columns, answer=(UNKNOWN,)), notes)
        turns = texts.get("turns", [])[:-1]
    if not (pictures := pictures or inside):
        raise NoPicture
    said = [turn["text"].replace(IMAGE, "").strip() for turn in turns]
    return said[-1] if said else "", list(zip(said[:-1:2], said[1::2])), pictures


def labels(row: Mapping[str, Any], columns: Columns) -> dict[str, str]:
    """What a record takes of the row as it stands: id, group, type and split, those that it has."""
    texts = {}
    for name, keys in (("id", columns.id), ("group", columns.group), ("type", columns.type), ("split", columns.split)):
        if keys and (text := label(value(row, keys))) is not None:
            texts[name] = text
    return texts


def pictures_of(row: Mapping[str, Any], columns: Columns) -> list[Picture]:
    """The pictures that the row names, or holds. RecordError where something else is in their place."""
    return pictures_in(value(row, columns.pictures))


def label(cell: Any) -> str | None:
    """A patient 7 is also 7.0, and " 7"."""
    if isinstance(cell, str):
        return None if says_nothing(cell, asked=True) else cell.strip()
    if isinstance(cell, bool) or cell is None or isinstance(cell, list | dict):
        return None if not isinstance(cell, bool) else str(cell)
    return number_text(cell) if isinstance(cell, int | float) else str(cell)


def _kept(row: Mapping[str, Any], record: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Of our own records, what other layouts do not have."""
    kept = {name: row[name] for name in ("image_id", "source") if not is_missing(row.get(name))}
    if "turns" not in record or "turns" not in row:
        return kept
    kept |= {name: row[name] for name in ("captions", "options") if not is_missing(row.get(name))}
    question = record["turns"][-2]["text"]
    answers = answers_of(row.get("answers"), lambda cell: answer_text(cell, question), notes)
    if texts := [answer.text for answer in answers]:
        kept["answers"] = texts
    return kept


def _check_marks(record: Mapping[str, Any], images: int) -> None:
    marks = 0
    for turn in record.get("turns", ())[::2]:
        marks += turn["text"].count(IMAGE)
    try:
        check_marks(marks, images)
    except ImageMarkMismatch as error:
        raise RecordError("record", str(error)) from None


def _language(cell: Any, record: Mapping[str, Any], notes: list[str]) -> str:
    if cell is not None:
        name = str(cell).strip().lower()
        known = LANGUAGES.get(name) or LANGUAGES.get(name.split("-")[0].split("_")[0])
        if known is not None:
            return known
        notes.append(f"{UNKNOWN_LANGUAGE}: {name[:40]}")
    if "turns" in record:
        return language_of(" ".join(turn["text"] for turn in record["turns"][:2]).replace(IMAGE, ""))
    language: str = next(iter(record["captions"]))
    return language


def _kind(row: Mapping[str, Any], columns: Columns, record: Mapping[str, Any], notes: list[str]) -> str | None:
    cell = value(row, columns.kind)
    kind = _known_kind(cell) or _known_kind(record.get("type"))
    if cell is not None and kind is None:
        notes.append(f"{UNKNOWN_KIND}: {str(cell)[:40]}")
    return "closed" if kind is None and (record.get("options") or value(row, columns.options[:1])) else kind


def _known_kind(name: Any) -> str | None:
    """However VQA-RAD's "CLOSED " and others' "closed-ended" are written."""
    return KINDS.get(re.sub(r"[\s_-]+", "_", name.strip().lower())) if isinstance(name, str) else None
