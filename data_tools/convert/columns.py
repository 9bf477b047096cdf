"""Which column of a source means what, and a row's captions by language."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data_tools.common.cli import nearest
from data_tools.common.text import LANGUAGES, RowError, detect_language
from data_tools.convert.formats import Row
from vglm_train.errors import UserError

IMAGE_NAMES = (
    "image",
    "image_path",
    "file_name",
    "filename",
    "filepath",
    "img",
    "img_path",
    "path",
    "jpg",
    "png",
    "webp",
)
CAPTION_NAMES = ("captions", "caption", "text", "txt", "sentences", "sentence", "raw", "title", "alt_text", "TEXT")
LANGUAGE_NAME = re.compile(rf"(?:captions?|text)_({'|'.join(LANGUAGES)})")
UNREADABLE = {
    "json": "not a JSON object",
    "encoding": "not in the file's text encoding; csv and tsv have --encoding, for instance gb18030",
    "columns": "the number of columns differs from the first row's",
}


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """Column names; a caption column goes with its language, or none when it is told from the text."""

    image: str
    captions: tuple[tuple[str | None, str], ...]
    id: str | None = None
    split: str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A record without its content hash: `image` is a path as the source gives it, or the picture's bytes."""

    place: str
    image: str | bytes
    captions: dict[str, list[str]]
    id: str | None
    split: str | None
    group: str | None
    done: int


def _column(option: str, name: str, columns: Sequence[str]) -> str:
    if name not in columns:
        raise UserError(
            f"{option}: the source has no column {name!r}{nearest(name, columns)}; its columns are {list(columns)}"
        )
    return name


def _optional(option: str, name: str | None, default: str, columns: Sequence[str]) -> str | None:
    if name is not None:
        return _column(option, name, columns)
    return default if default in columns else None


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
    plain = tuple((language, name) for name in CAPTION_NAMES if name in columns)
    return named or plain[:1]


def resolve(
    columns: Sequence[str],
    *,
    image: str | None,
    captions: Sequence[str],
    language: str | None,
    id: str | None,
    split: str | None,
    group: str | None,
) -> ColumnNames:
    """The columns to read: those asked for, else the usual names; UserError lists the source's columns."""
    found = _column("--image-field", image, columns) if image else next((n for n in IMAGE_NAMES if n in columns), None)
    if found is None:
        raise UserError(f"no column is known to hold pictures; give --image-field with one of {list(columns)}")
    chosen = tuple(_caption_column(text, language, columns) for text in captions)
    chosen = chosen or _guess_captions(language, columns)
    if not chosen:
        raise UserError(f"no column is known to hold captions; give --caption-field with one of {list(columns)}")
    return ColumnNames(
        image=found,
        captions=chosen,
        id=_optional("--id-field", id, "id", columns),
        split=_optional("--split-field", split, "split", columns),
        group=_optional("--group-field", group, "group", columns),
    )


def _texts(language: str | None, value: Any) -> Iterator[tuple[str | None, str]]:
    """Captions in a cell: a string, a list, `{"raw": ...}` as in Karpathy's files, or `{"en": [...], "zh": [...]}`."""
    if isinstance(value, str):
        yield language, " ".join(value.split())
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(language, item)
    elif isinstance(value, dict):
        for key in ("raw", "caption", "text"):
            yield from _texts(language, value.get(key))
        for key in LANGUAGES:
            yield from _texts(key, value.get(key))
    elif value is not None:
        raise RowError("caption", f"a caption is {type(value).__name__}, not text")


def _captions(fields: ColumnNames, values: dict[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for language, column in fields.captions:
        for known, text in _texts(language, values.get(column)):
            if text:
                found.setdefault(known or detect_language(text), []).append(text)
    if not found:
        raise RowError("caption", f"no caption in {[column for _, column in fields.captions]}")
    return {language: found[language] for language in LANGUAGES if language in found}


def _image(value: Any) -> str | bytes:
    if isinstance(value, dict):  # Hugging Face: {"bytes", "path"}
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if not isinstance(value, str) or not value.strip():
        raise RowError("image", "no picture is named")
    if value.startswith(("http://", "https://")):
        raise RowError("image", f"{value} is an address; download the pictures first, for instance with img2dataset")
    return value.strip()


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def draft(row: Row, fields: ColumnNames) -> Draft:
    """The row as a draft record; RowError with its cause when it has no picture or no caption."""
    if row.cause is not None:
        raise RowError(row.cause, UNREADABLE[row.cause])
    values = row.values
    return Draft(
        place=row.place,
        image=_image(values.get(fields.image)),
        captions=_captions(fields, values),
        id=_text(values.get(fields.id)) if fields.id else None,
        split=(_text(values.get(fields.split)) if fields.split else None) or row.split,
        group=_text(values.get(fields.group)) if fields.group else None,
        done=row.done,
    )


def merge(first: Draft, second: Draft) -> Draft | None:
    """One draft of two rows in a row that caption the same picture file of the same split, else none."""
    if not isinstance(first.image, str) or (first.image, first.split) != (second.image, second.split):
        return None
    both = {language: [*first.captions.get(language, []), *second.captions.get(language, [])] for language in LANGUAGES}
    captions = {language: texts for language, texts in both.items() if texts}
    return replace(first, captions=captions, done=second.done)
