"""What a row of a source becomes: a draft of a record, with captions by language or a dialogue."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from data_tools.common.cli import nearest
from data_tools.common.text import LANGUAGES, detect_language
from vglm_train.config.data import Fields
from vglm_train.data.record import RecordError
from vglm_train.data.tables.base import Row
from vglm_train.data.tables.canonical import labels, pictures_of, texts_of, to_record
from vglm_train.data.tables.fields import Columns, known, resolve, value
from vglm_train.errors import UserError

LANGUAGE_NAME = re.compile(rf"(?:captions?|text)_({'|'.join(LANGUAGES)})")
DIALOGUE = ("turns", "language", "kind", "type", "answers")
UNREADABLE = {
    "json": "not a JSON object",
    "encoding": "not in the file's text encoding; csv and tsv have --encoding, for instance gb18030",
    "columns": "the number of columns differs from the first row's",
    "truncated": "the tar ends within it, or goes on with something that cannot be read",
    "doubt": "several samples have this key, with unequal members: which belong together cannot be told",
    "link": "a member is a link that leads out of the tar, or is stored with holes",
}


@dataclass(frozen=True, slots=True)
class SourceColumns:
    """What each column of a source means. `captions`: the caption columns, each with its language, or none when the
    text tells it; a source without any is read as a table of questions, answers and dialogues."""

    table: Columns
    captions: tuple[tuple[str | None, str], ...]
    language: str | None = None  # of all texts; None: the text tells it

    def line(self) -> str:
        """In words."""
        captions = [f"{name} ({language or 'language from the text'})" for language, name in self.captions]
        texts = captions or [*self.table.turns, *self.table.question, *self.table.answer]
        return f"picture columns: {', '.join(self.table.pictures)}; text columns: {', '.join(texts)}"


@dataclass(frozen=True, slots=True)
class Draft:
    """A record without its content hash. `images`: each a path as the source gives it, or the picture's bytes."""

    where: str
    images: tuple[str | bytes, ...]
    captions: dict[str, list[str]]
    labels: dict[str, str]  # id, split, group: those that the source gives
    done: int
    dialogue: dict[str, Any]  # the fields DIALOGUE; empty: there is none


def _column(option: str, name: str, columns: Sequence[str]) -> str:
    if name not in columns:
        raise UserError(
            f"{option}: the source has no column {name!r}{nearest(name, columns)}; its columns are {list(columns)}"
        )
    return name


def _caption_column(text: str, language: str | None, columns: Sequence[str]) -> tuple[str | None, str]:
    prefix, equals, name = text.partition("=")
    if not equals:
        return language, _column("--caption-field", text, columns)
    if prefix not in LANGUAGES:
        raise UserError(f"--caption-field {text}: language {prefix!r} is not one of {list(LANGUAGES)}")
    return prefix, _column("--caption-field", name, columns)


def _guess_captions(language: str | None, columns: Sequence[str]) -> tuple[tuple[str | None, str], ...]:
    matches = [(LANGUAGE_NAME.fullmatch(name), name) for name in columns]
    named = tuple((match[1], name) for match, name in matches if match)
    return named or tuple((language, name) for name in known("caption", columns)[:1])


def source_columns(
    source: str,
    columns: Sequence[str],
    fields: Fields,
    captions: Sequence[str],
    language: str | None,
    **named: str | None,
) -> SourceColumns:
    """The columns to read: those in `fields`, `captions` and `named` (image, id, split, group), else the usual names.

    UserError lists the source's columns.
    """
    options = {what: (_column(f"--{what}-field", name, columns),) for what, name in named.items() if name is not None}
    chosen = tuple(_caption_column(text, language, columns) for text in captions)
    guessed = () if chosen or fields.question or fields.answer or fields.turns else _guess_captions(language, columns)
    if "image" in options:
        fields = replace(fields, image=options["image"][0])
    if chosen or guessed:
        fields = replace(fields, answer=(chosen or guessed)[0][1])
    table = replace(resolve(source, columns, fields), **options)
    if chosen:
        return SourceColumns(replace(table, turns=()), chosen, language)
    if not (guessed or table.turns or table.question):
        guessed = ((language, table.answer[0]),)  # an answer without a question describes the picture
    return SourceColumns(table, guessed, language)


def _captions(columns: SourceColumns, values: dict[str, Any]) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    for language, column in columns.captions:
        held = values.get(column)
        if isinstance(held, int | float):
            raise RecordError("caption", f"a caption is {type(held).__name__}, not text")
        try:
            for stated, text in texts_of(held or None, language):
                captions.setdefault(stated or detect_language(text), []).append(" ".join(text.split()))
        except RecordError as error:
            raise RecordError("caption", str(error)) from None
    return {language: captions[language] for language in LANGUAGES if language in captions}


def _check_pictures(images: Sequence[str | bytes]) -> None:
    if not images:
        raise RecordError("image", "no picture is named")
    for name in images:
        if isinstance(name, str) and name.startswith(("http://", "https://")):
            reason = "is an address; download the pictures first, for instance with img2dataset"
            raise RecordError("image", f"{name} {reason}")


def make_draft(row: Row, columns: SourceColumns) -> Draft:
    """The row as a draft record; RecordError with its cause when it has no picture, or says nothing."""
    if row.cause is not None or row.values is None:
        cause = row.cause or "json"
        raise RecordError(cause, UNREADABLE[cause])
    record: dict[str, Any] = {}
    if not columns.captions or value(row.values, columns.table.turns) is not None:
        record, images = to_record(row.values, columns.table)
    else:
        images = pictures_of(row.values, columns.table)
    _check_pictures(images)
    captions = _captions(columns, row.values) or record.get("captions", {})
    dialogue = {name: record[name] for name in DIALOGUE if name in record and "turns" in record}
    if not captions and not dialogue:
        raise RecordError("caption", f"no caption in {[column for _, column in columns.captions]}")
    if dialogue and columns.language:
        dialogue["language"] = columns.language
    names = {"split": row.split} if row.split else {}
    names |= labels(row.values, columns.table)
    return Draft(row.where, tuple(images), captions, names, row.offset + row.size, dialogue)


def merge(first: Draft, second: Draft) -> Draft | None:
    """One draft of two rows in a row that caption the same picture file of the same split, else none."""
    if first.dialogue or second.dialogue or not all(isinstance(image, str) for image in first.images):
        return None
    if (first.images, first.labels.get("split")) != (second.images, second.labels.get("split")):
        return None
    both = {language: [*first.captions.get(language, []), *second.captions.get(language, [])] for language in LANGUAGES}
    captions = {language: texts for language, texts in both.items() if texts}
    return replace(first, captions=captions, done=second.done)
