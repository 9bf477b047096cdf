"""Columns that look like text and are not read, so that no text of a table is lost without a word."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from vglm_train.data.tables.cells import is_missing, says_nothing
from vglm_train.data.tables.fields import Columns, by_language, key_of
from vglm_train.prompt.dialogue import HAN

TEXTS = frozenset(
    (
        *(
            "system",
            "history",
            "input",
            "context",
            "hint",
            "rationale",
            "solution",
            "lecture",
            "explanation",
            "reasoning",
        ),
        *("findings", "impression", "report", "caption", "question", "prompt", "query", "instruction"),
        *("answer", "response", "output"),
    )
)
"""Keys that hold text by their names, however short it is."""
SAME = 3  # rows from which on a column that says the same in all of them is no text of theirs
WALKED = 20  # texts inside of one cell that are looked at
NAMED = 6  # columns that are named
SHOWN = 40  # characters of an example

_WORDS = re.compile(rf"[^\W\d_]+[,;:]? +[^\W\d_]+|[{HAN}]{{4}}")
_ADDRESS = re.compile(r"[a-z]+://\S+", re.IGNORECASE)


def unread_texts(rows: Sequence[Mapping[str, Any]], columns: Columns) -> dict[str, str]:
    """Column -> an example of its texts, of those columns of the first rows that look like text and are not read."""
    found: dict[str, list[str]] = {}
    for row in rows:
        read = keys_read(row, columns)
        known = " ".join(text for key in read for text in _texts(row[key]))
        for key, cell in row.items():
            if key not in read and not is_missing(cell):
                texts = [text for text in islice(_texts(cell), WALKED) if _is_text(key, text) and text not in known]
                found.setdefault(key, []).extend(texts[:1])
    return {key: texts[0] for key, texts in found.items() if texts and _varies(key, texts, len(rows))}


def keys_read(row: Mapping[str, Any], columns: Columns) -> set[str]:
    """The columns of a row that make its record, so far as texts are concerned; also those that are no text at all."""
    parts = [
        columns.pictures,
        columns.image_id,
        columns.group,
        columns.kind,
        columns.language,
        columns.type,
        columns.id,
        columns.split,
    ]
    asked = key_of(row, (*columns.question, *columns.input))
    if key_of(row, columns.turns) is not None:
        parts += [columns.turns]
        parts += [(name,) for name in ("captions", "answers", "options", "source") if "turns" in row]
    else:
        parts += [columns.question, columns.input, columns.history]
        parts += [columns.context] if asked else []
        parts += [(name,) for name in columns.options]
        parts += [(name,) for name in by_language(row, columns)] or [columns.answer]
    return {key for names in parts if (key := key_of(row, names)) is not None}


def describe_unread(unread: Mapping[str, str], option: str) -> str:
    """In words; an empty example is not shown. `option`: how a column is mapped here, with places for what it is to be
    and for its key."""
    names = [f"{key!r}" + f" ({text[:SHOWN]!r})" * bool(text) for key, text in islice(unread.items(), NAMED)]
    more = f" and {len(unread) - NAMED} more" if len(unread) > NAMED else ""
    key = next(iter(unread))
    return (
        f"not read, though it looks like text: {', '.join(names)}{more}. To put it before the question: "
        f"{option.format('context', key)}; to learn it: {option.format('answer', key)}"
    )


def _texts(cell: Any) -> Iterator[str]:
    match cell:
        case str():
            yield cell
        case list() | tuple():
            for each in cell:
                yield from _texts(each)
        case dict():
            yield from _texts(list(cell.values()))


def _is_text(key: str, text: str) -> bool:
    if says_nothing(text, asked=False) or _ADDRESS.fullmatch(text.strip()):
        return False
    return key.strip().lower() in TEXTS or _WORDS.search(text) is not None


def _varies(key: str, texts: Sequence[str], rows: int) -> bool:
    return key.strip().lower() in TEXTS or rows < SAME or len(set(texts)) > 1
