"""The choices of a question: read in whichever layout a row has them, written into the question, and named by answers.

Layouts: a list; an object {"A": ...}; {"label": [...], "text": [...]}; a list of {"label": ..., "text": ...} or of
{"A": ...}; a text of lettered parts, of lines, or of parts between | or ;; a column each (choice_a, "Choice A",
option1, or the letters A, B, C, D). Choices that are null, blank or "nan" are none.

A number names a choice by the choices' own numbers, where they have some. Else it counts from 0, or from 1 where no
answer of the table's first rows is 0 and one is as large as the number of its choices: `find_first_number`.
"""

import ast
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from string import ascii_uppercase
from typing import Any, NamedTuple

from vglm_train.data.record import RecordError, kind_of
from vglm_train.data.tables.cells import is_missing, number_text, says_nothing

AMBIGUOUS = (
    "an answer that is a choice and names another (a text is read as the choice, a number as the other's number)"
)
BY_NUMBER = "an answer that is a choice's number, counted from {}"
SINGLE = "a question with a single choice"
TWICE = "choices that say the same"
SEVERAL = "several choices that are right, of which the one named most often, else first, is learned"
LETTER_ALONE = "the answer is the letter of a choice, but the row has no choices"
NO_CHOICE = "an answer that is none of its choices, used as it stands"
ONE_TEXT = "choices in one text, which is written into the question as it stands"
LETTER_KEYS, TEXT_KEYS = ("label", "letter", "key", "id"), ("text", "value", "content", "option")
BETWEEN = ("\n", "|", ";")  # what parts a text of choices

_COLUMN = re.compile(r"(?:choice|option|opt|op)[ _-]?([a-h]|[0-8])")
_LETTERED = re.compile(r"\(?([A-Za-z0-9])\s*[.):、．：]\s*")  # "A. liver", "(A) liver", "A:liver"
_INLINE = re.compile(r"(?:^|(?<=[\s,，;；]))\(?([A-H])\s*[.):、．：]\s*")
_LONE_LETTER = re.compile(r"\(?[A-H][.):、]?")
_LETTER = re.compile(r"\(?([A-Za-z])[.):、．：]?")


class Choice(NamedTuple):
    """`letter`: or number; empty of choices that are one text. `value`: as the row holds it."""

    letter: str
    text: str
    value: Any


def columns_of(keys: Sequence[str]) -> tuple[str, ...]:
    """Those of `keys` that hold a choice each, in order; two at least."""
    found = {key: match[1] for key in keys if (match := _COLUMN.fullmatch(key.strip().lower()))}
    if len(found) < 2:
        found = {key: key for key in keys if key in ascii_uppercase[:8]}
        if not {"A", "B"} <= found.keys():
            return ()
    return tuple(sorted(found, key=found.__getitem__))


def read_choices(row: Mapping[str, Any], columns: Sequence[str]) -> list[Choice]:
    """The choices of a row, in order; none where it has none. A text that cannot be taken apart is one, without letter.
    RecordError for what is no text."""
    if len(columns) > 1:
        return _choices({name.strip()[-1].upper(): row.get(name) for name in columns})
    cell = listed(row.get(columns[0])) if columns else None
    if is_missing(cell) or (isinstance(cell, str) and says_nothing(cell, asked=True)):
        return []
    found = _choices(_by_letter(cell))
    return found if found or isinstance(cell, list | tuple | dict) else [Choice("", _text(cell), cell)]


def doubts(choices: Sequence[Choice], answers: Sequence[str]) -> list[str]:
    """What is odd about choices, or about the answers that were read with them."""
    lettered, texts = [each for each in choices if each.letter], {_folded(each.text) for each in choices}
    found = [SINGLE] if len(lettered) == 1 else []
    found += [TWICE] if len(texts) < len(choices) else []
    return found + ([SEVERAL] if lettered and len(set(answers)) > 1 else [])


def refuse_letter(cell: Any, question: str) -> None:
    """RecordError for an answer A to a question that has no choices, neither beside it nor in its text."""
    text = unicodedata.normalize("NFKC", cell).strip() if isinstance(cell, str) else ""
    if _LONE_LETTER.fullmatch(text) and not _lettered_parts(question):
        raise RecordError("record", f"{LETTER_ALONE}: {text}")


def find_first_number(answered: Iterable[tuple[Any, Sequence[Choice]]]) -> int:
    """Whether answers that are numbers count from 0 or from 1, by the first rows' answers and choices."""
    found = 0
    for cell, choices in answered:
        number = _plain(cell)
        if not isinstance(number, int) or not choices or _is_numbered(choices):
            continue
        if any(is_text_of(each, cell) for each in choices):
            continue
        if number == 0:
            return 0
        found |= number == len(choices)
    return int(found)


def written(question: str, choices: Sequence[Choice]) -> str:
    """The question with its choices, a line each; as it is where it names them all."""
    plain = question.casefold()
    if all(re.search(rf"(?<!\w){re.escape(each.text.casefold())}(?!\w)", plain) for each in choices):
        return question
    lines = [f"{each.letter}. {each.text}" if each.letter else each.text for each in choices]
    return "\n".join([question, *lines] if question else lines)


def chosen(cell: Any, choices: Sequence[Choice], notes: list[str], first: int = 0) -> Choice | None:
    """The choice that an answer is, or names by its letter or its number from `first`; None where it is something else.

    `notes` gets what is not certain. RecordError where it is the letter or number of no choice.
    """
    same = next((each for each in choices if is_text_of(each, cell)), None)
    named = _named(cell, choices, first)
    if same is not None:
        notes += [AMBIGUOUS] * (named is not None and named.text != same.text)
        return same
    if named is not None:
        notes += [AMBIGUOUS] * any(each.text == str(cell) for each in choices if each is not named)
        by_number = isinstance(_plain(cell), int) and not _is_numbered(choices)
        notes += [BY_NUMBER.format(first)] * by_number
        return named
    if (plain := _plain(cell)) is not None:
        among = f"{len(choices)} choices, from {choices[0].letter} to {choices[-1].letter}; numbers count from {first}"
        among = among if choices[0].letter else "choices that are one text: give them as a list"
        raise RecordError("record", f"the answer names none of its choices: {plain} of {among}")
    notes.append(NO_CHOICE if choices[0].letter else ONE_TEXT)
    return None


def _choices(by_letter: Mapping[str, Any]) -> list[Choice]:
    """Without those that are empty, and without "A:" before what is under A anyway."""
    texts = {letter: _text(value) for letter, value in by_letter.items() if not is_missing(value)}
    texts = {letter: text for letter, text in texts.items() if not says_nothing(text, asked=True)}
    marks = {letter: _LETTERED.match(text) for letter, text in texts.items()}
    bare = {letter: texts[letter][match.end() :] for letter, match in marks.items() if match and match[1] == letter}
    if len(bare) == len(texts) and all(bare.values()):
        texts = bare
    return [Choice(letter, text.strip(), by_letter[letter]) for letter, text in texts.items()]


def _by_letter(cell: Any) -> dict[str, Any]:
    """Empty where a text cannot be taken apart."""
    match cell:
        case {"label": list() as labels, "text": list() as texts} if len(labels) == len(texts):
            return {str(label): text for label, text in zip(labels, texts)}
        case dict():
            return {str(key).strip(): value for key, value in cell.items()}
        case list() | tuple() if cell and all(isinstance(each, dict) for each in cell):
            return dict(map(_entry, cell))
        case list() | tuple():
            return {_letter(number): value for number, value in enumerate(cell)}
        case str():
            return _of_text(cell.strip())
    return {}


def _entry(choice: dict[str, Any]) -> tuple[str, Any]:
    """Letter and text of a choice that is an object by itself. RecordError where it is of another layout."""
    if len(choice) == 1:
        [(name, held)] = choice.items()
        return str(name).strip(), held
    letter = next((choice[name] for name in LETTER_KEYS if name in choice), None)
    text = next((choice[name] for name in TEXT_KEYS if name in choice), None)
    if letter is None or text is None:
        raise RecordError("record", f"a choice must be a text: found an object of {', '.join(map(str, choice))[:80]}")
    return str(letter).strip(), text


def _letter(number: int) -> str:
    return ascii_uppercase[number] if number < len(ascii_uppercase) else str(number)


def _of_text(text: str) -> dict[str, Any]:
    """Choices that are one text."""
    held = listed(text)
    if not isinstance(held, str):
        return _by_letter(held)
    if parts := _lettered_parts(text):
        return parts
    mark = next((mark for mark in BETWEEN if mark in text), None)
    return _by_letter([part for part in text.split(mark) if part.strip()]) if mark else {}


def _lettered_parts(text: str) -> dict[str, str]:
    """The parts of "A. liver B. heart"; none where there are not two at least, in order."""
    marks = list(_INLINE.finditer(text))
    if len(marks) < 2 or [mark[1] for mark in marks] != list(ascii_uppercase[: len(marks)]):
        return {}
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return {mark[1]: text[mark.end() : end].strip(" \n,，;；") for mark, end in zip(marks, ends)}


def listed(cell: Any) -> Any:
    """A list or object that a cell of CSV holds as JSON, or as Python writes it; anything else as it is."""
    if isinstance(cell, str) and cell.strip()[:1] in ("[", "{"):
        for read in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                held = read(cell.strip())
                return held if isinstance(held, list | tuple | dict) else cell
    return cell


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number_text(value) or ""
    raise RecordError("record", f"a choice must be a text: found {kind_of(value)}")


def is_text_of(choice: Choice, cell: Any) -> bool:
    """Whether an answer is the choice as it stands, not its letter or number."""
    if isinstance(cell, str):
        return isinstance(choice.value, str) and _folded(cell) in (_folded(choice.text), _folded(choice.value))
    return type(cell) is type(choice.value) and cell == choice.value


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(". ")


def _is_numbered(choices: Sequence[Choice]) -> bool:
    return any(each.letter.isdecimal() for each in choices)


def _named(cell: Any, choices: Sequence[Choice], first: int) -> Choice | None:
    """By a letter, by a letter with its text, or by a number: its own, else from `first`."""
    by_letter = {each.letter.upper(): each for each in choices}
    plain = _plain(cell)
    if isinstance(plain, int):
        return by_letter.get(str(plain) if _is_numbered(choices) or plain < first else _letter(plain - first))
    if plain is not None:
        return by_letter.get(plain)
    text = unicodedata.normalize("NFKC", cell).strip() if isinstance(cell, str) else ""
    mark = _LETTERED.match(text)
    named = by_letter.get(mark[1].upper()) if mark else None
    return named if named and mark and _folded(text[mark.end() :]) == _folded(named.text) else None


def _plain(cell: Any) -> str | int | None:
    """The letter, in capitals, or the number that is all of an answer."""
    if isinstance(cell, str):
        text = unicodedata.normalize("NFKC", cell).strip()
        if text.isdecimal() and len(text) < 3:
            return int(text)
        letter = _LETTER.fullmatch(text)
        return letter[1].upper() if letter else None
    if isinstance(cell, float):
        return int(cell) if cell.is_integer() else None
    return cell if isinstance(cell, int) and not isinstance(cell, bool) else None
