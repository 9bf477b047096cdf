"""What a row of a source becomes: a draft of a record, with captions by language or a dialogue.

Whether a row can be used is not decided here: `Schema.read`, `parse` and `LanguageCheck` say so, as for `check_table`
and training.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from data_tools.common.cli import nearest
from data_tools.common.text import LANGUAGES, detect_language
from data_tools.convert.report_text import ReportRules
from data_tools.convert.study_rows import StudyPictures
from vglm_train.config.data import Fields
from vglm_train.data.record import RecordError, parse
from vglm_train.data.rules import LanguageCheck
from vglm_train.data.tables.base import Row, RowReader, name_row, unreadable
from vglm_train.data.tables.canonical import NoPicture, labels, pictures_of, texts_of
from vglm_train.data.tables.fields import known, value
from vglm_train.data.tables.layouts.rows import Values
from vglm_train.data.tables.pictures import Picture
from vglm_train.data.tables.schema import Schema
from vglm_train.errors import UserError

DIALOGUE = ("turns", "language", "kind", "type", "answers", "options")
ASKED = "a question or a dialogue, whose answers --report-part and --earlier leave as they are"
CHECK = LanguageCheck(LANGUAGES)


@dataclass(frozen=True, slots=True)
class CaptionColumns:
    """A step on rows: the texts of `columns` become their captions, each in its language; None: the text tells it."""

    columns: tuple[tuple[str | None, str], ...]
    adds = ("captions",)

    @property
    def name(self) -> str:
        return repr(self.columns)

    def __call__(self, row: Values) -> Values:
        cells = [(language, row.get(name)) for language, name in self.columns]
        return row | {"captions": [cell if language is None else {language: cell} for language, cell in cells]}


def captions_only(fields: Fields) -> Fields:
    """With which nothing but `captions` is read as a text."""
    none = dict.fromkeys(("question", "context", "input", "history", "options", "turns"), "")
    return replace(fields, answer="captions", **none)


@dataclass(frozen=True, slots=True)
class DraftRules:
    """`language`: of all texts; None: the text tells it. `studies`: what gives rows the pictures of their study, where
    studies are put together; `study_column`: that names it."""

    schema: Schema
    language: str | None = None
    text: ReportRules = field(default_factory=ReportRules)
    studies: StudyPictures | None = None
    study_column: str | None = None


@dataclass(frozen=True, slots=True)
class Views:
    """Of a study's draft: what its id is a hash of, and of each picture the view.

    Pictures are tried in `order`; the first `most` that can be used are kept, and shown as they stand in the draft.
    """

    study: str
    names: tuple[str, ...]
    order: tuple[int, ...]
    most: int
    whole: bool = False  # whether all must be there


@dataclass(frozen=True, slots=True)
class Draft:
    """A record without its content hash. `images`: each a path as the source gives it, or the picture's bytes."""

    where: str
    images: tuple[str | bytes, ...]
    captions: dict[str, list[str]]
    labels: dict[str, str]  # id, split, group, type: those that the source gives
    done: int
    dialogue: dict[str, Any]  # the fields DIALOGUE; empty: there is none
    notes: tuple[str, ...] = ()  # as of RowReading
    rows: int = 1  # that it is of
    study: str = ""  # that the row names, where a column does
    views: Views | None = None  # of a study
    problem: RecordError | None = None  # why no record can be made of it


def column(option: str, name: str, columns: Sequence[str]) -> str:
    """`name`, which the source must have. UserError lists its columns."""
    if name not in columns:
        raise UserError(
            f"{option}: the source has no column {name!r}{nearest(name, columns)}; its columns are {list(columns)}"
        )
    return name


def caption_column(text: str, language: str | None, columns: Sequence[str]) -> tuple[str | None, str]:
    """Language and column of a --caption-field [LANG=]COLUMN."""
    prefix, equals, name = text.partition("=")
    if not equals:
        return language, column("--caption-field", text, columns)
    if prefix not in LANGUAGES:
        raise UserError(f"--caption-field {text}: language {prefix!r} is not one of {list(LANGUAGES)}")
    return prefix, column("--caption-field", name, columns)


def make_draft(reader: RowReader, row: Row, rules: DraftRules) -> Draft:
    """The row as a draft record. RecordError where it cannot be used, as `check_table` counts it."""
    if row.values is None:
        raise unreadable(row.cause or "json")
    record, images, notes = rules.schema.read(row.values)
    CHECK.check(parse(record), len(images))
    captions = {name: list(record["captions"][name]) for name in LANGUAGES if record.get("captions", {}).get(name)}
    dialogue = {name: record[name] for name in DIALOGUE if name in record and "turns" in record}
    if dialogue and not captions and value(row.values, rules.schema.columns.turns) is not None:
        captions = _beside(row.values, rules)
    if rules.language is not None:
        captions = {rules.language: [text for texts in captions.values() for text in texts]} if captions else {}
        dialogue |= {"language": rules.language} if dialogue else {}
    said = list(notes)
    captions = rules.text.apply(captions, said)
    if dialogue and rules.text != ReportRules():
        said.append(ASKED)
    plain = {name: [" ".join(text.split()) for text in texts] for name, texts in captions.items()}
    return replace(_empty(reader, row, row.values, rules, images), captions=plain, dialogue=dialogue, notes=tuple(said))


def make_study_draft(reader: RowReader, row: Row, rules: DraftRules) -> Draft:
    """As `make_draft`, and of a row without a text only its pictures: another row of the study may have the report."""
    if rules.studies is not None and rules.study_column is None and row.values is not None:
        rules.studies.check(row.values)
    try:
        return make_draft(reader, row, rules)
    except NoPicture:
        assert row.values is not None
        assert rules.studies is not None
        raise RecordError("image", rules.studies.why_none(row.values)) from None
    except RecordError as error:
        images = pictures_of(row.values, rules.schema.columns) if row.values and error.cause == "caption" else []
        if not images:
            raise
        return _empty(reader, row, row.values or {}, rules, images)


def _empty(reader: RowReader, row: Row, values: Values, rules: DraftRules, images: Sequence[Picture]) -> Draft:
    """A draft without texts."""
    where, done = name_row(reader, row), row.offset + row.size
    study = rules.studies.study(values, rules.study_column) if rules.studies and rules.study_column else None
    return Draft(where, tuple(images), {}, labels(values, rules.schema.columns), done, {}, study=study or "")


def _beside(row: Values, rules: DraftRules) -> dict[str, list[str]]:
    """Captions that a row has beside its dialogue; none where they are no texts."""
    captions: dict[str, list[str]] = {}
    with suppress(RecordError):
        for stated, text in texts_of(value(row, known("caption", rules.schema.keys))):
            captions.setdefault(stated or detect_language(text), []).append(text)
    return captions


def merge(first: Draft, second: Draft) -> Draft | None:
    """One draft of two rows in a row that caption the same picture file of the same split, else none."""
    if first.dialogue or second.dialogue or not all(isinstance(image, str) for image in first.images):
        return None
    if (first.images, first.labels.get("split")) != (second.images, second.labels.get("split")):
        return None
    both = {language: [*first.captions.get(language, []), *second.captions.get(language, [])] for language in LANGUAGES}
    captions = {language: texts for language, texts in both.items() if texts}
    rows, notes = first.rows + second.rows, first.notes + second.notes
    return replace(first, captions=captions, done=second.done, rows=rows, notes=notes)
