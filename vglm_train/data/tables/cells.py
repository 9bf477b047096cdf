"""What a cell of a table says: the one place that decides what is no value, and how what is no text is written.

| cell | as an answer to a question | as a caption |
|---|---|---|
| null, NaN, Infinity, blank | none | none |
| "nan", "null", "<NA>", "#N/A", in any case | none | none |
| "None", "N/A", "NA", in any case | as it stands: people answer so | none |
| true, false | yes, no; 是, 否 to a Chinese question | no text: the row cannot be used |
| 3, 2.0, 12.5 | 3, 2, 12.5 | no text: the row cannot be used |
| any other text, "True" and "3.0" too | as it stands, without blanks around it | the same |

A cell of CSV is a text. What of the texts may be another program's writing of a number or of nothing stays as it is and
is told: `doubt`.
"""

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from vglm_train.data.record import RecordError, kind_of
from vglm_train.prompt.dialogue import is_chinese

NOTHING = frozenset(("nan", "-nan", "null", "<na>", "#n/a", "<null>"))  # which nobody answers with
NO_CAPTION = NOTHING | {"none", "n/a", "na", "nil"}
POLARITY = {"en": {True: "yes", False: "no"}, "zh": {True: "是", False: "否"}}
LONGEST_MARKER = max(map(len, NO_CAPTION))

_WRITTEN_NUMBER = re.compile(r"-?\d+\.0")


def is_missing(cell: Any) -> bool:
    """Whether a cell has no value; a list has none if none of its elements has."""
    if isinstance(cell, str):
        return not cell or cell.isspace()
    if isinstance(cell, float):
        return not math.isfinite(cell)
    if isinstance(cell, list | tuple):
        return all(map(is_missing, cell))
    return cell is None or (isinstance(cell, dict | bytes) and not cell)


def names_in(cell: Any) -> Iterator[str]:
    """The names, of pictures or of folders, that a cell holds: texts and numbers, one or a list of them."""
    each: Iterable[Any] = cell if isinstance(cell, list | tuple) else [cell]
    for held in each:
        if isinstance(held, str) and not is_missing(held):
            yield held
        elif isinstance(held, int | float) and (text := number_text(held)) is not None:
            yield text


def says_nothing(text: str, asked: bool) -> bool:
    """Whether a text is how programs write that there is none. `asked`: it would be the answer to a question."""
    plain = text.strip()
    if len(plain) > LONGEST_MARKER:
        return False
    return not plain or plain.lower() in (NOTHING if asked else NO_CAPTION)


def answer_text(cell: Any, question: str) -> str | None:
    """An answer to `question`; None where the cell says nothing. RecordError for what is neither text nor number."""
    match cell:
        case str():
            return None if says_nothing(cell, asked=True) else cell.strip()
        case bool():
            return POLARITY["zh" if is_chinese(question) else "en"][cell]
        case int() | float():
            return number_text(cell)
        case _ if is_missing(cell):
            return None
    raise RecordError("record", f"an answer must be a text: found {kind_of(cell)}")


def caption_text(cell: Any) -> str | None:
    """A caption; None where the cell says nothing. RecordError for what is no text: a number is a class, not words."""
    if isinstance(cell, str):
        return None if says_nothing(cell, asked=False) else cell.strip()
    if is_missing(cell):
        return None
    raise RecordError("caption", f"a caption must be a text: found {kind_of(cell)}")


def number_text(number: float) -> str | None:
    """A number as people write it, 2.0 as 2; None of one that is not finite."""
    if isinstance(number, int):
        return str(number)
    if not math.isfinite(number):
        return None
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def doubt(answer: str, asked: bool) -> str | None:
    """What may be wrong with a text that is used as it stands."""
    if asked and answer.lower() in NO_CAPTION:
        return "an answer None or N/A, which is used as it stands"
    if asked and answer.lower() in ("true", "false"):
        return "an answer True or False written as a text, which is used as it stands"
    if asked and _WRITTEN_NUMBER.fullmatch(answer):
        return "a number written as 3.0, which is used as it stands"
    if not asked and not any(map(str.isalpha, answer)):
        return "a caption without a letter"
    return None
