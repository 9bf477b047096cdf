"""The answers or captions of a row, in whichever way its cells hold them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from vglm_train.data.record import RecordError
from vglm_train.data.tables.cells import caption_text, is_missing

EMPTY = "an empty one among several answers or captions (null, NaN, nan), left out"
WEIGHTLESS = "an answer of weight 0, left out"
OTHER_LANGUAGE = "captions in another language than en and zh, left out"
TEXT_KEYS = ("answer", "caption", "raw", "text")  # of an object that has its text under one of them
WEIGHT_KEYS = ("weight", "score")


class Answer(NamedTuple):
    """`language`: where the row gives it; `weight`: how much it counts when the commonest answer is learned."""

    text: str
    language: str | None = None
    weight: float = 1.0


def answers_of(cell: Any, say: Callable[[Any], str | None], notes: list[str]) -> Iterator[Answer]:
    """The answers in a cell: a text or number, a list, {"en": ..., "zh": ...}, {text: weight}, or an object that has
    its text under a usual key and perhaps a weight, as in VQAv2's and Karpathy's files.

    `say` makes a text of a single value, None where it says nothing; `notes` gets what is left out of several.
    RecordError for anything else.
    """
    yield from _walk(cell, say, notes, Answer(""), nested=False)


def texts_of(cell: Any, language: str | None = None) -> Iterator[tuple[str | None, str]]:
    """Language, None where none is given, and text of the captions in a cell. RecordError as `answers_of`."""
    for answer in answers_of(cell, caption_text, []):
        yield answer.language or language, answer.text


def commonest(answers: Sequence[Answer]) -> str:
    """The text with the largest sum of weights, the first of several."""
    sums: dict[str, float] = {}
    for answer in answers:
        sums[answer.text] = sums.get(answer.text, 0.0) + answer.weight
    return max(sums, key=sums.__getitem__)


def _walk(cell: Any, say: Callable[..., Any], notes: list[str], known: Answer, nested: bool) -> Iterator[Answer]:
    """`known`: language and weight of what is inside."""
    match cell:
        case list() | tuple():
            for each in cell:
                yield from _walk(each, say, notes, known, nested=len(cell) > 1)
        case dict() if cell:
            for inner, of_inner in _members(cell, notes, known):
                yield from _walk(inner, say, notes, of_inner, nested or len(cell) > 1)
        case _:
            text = None if is_missing(cell) else say(cell)
            if text is not None and known.weight > 0:
                yield known._replace(text=text)
            elif nested:
                notes.append(EMPTY if text is None else WEIGHTLESS)


def _members(cell: dict[str, Any], notes: list[str], known: Answer) -> Iterator[tuple[Any, Answer]]:
    """The values of an object, each with language and weight."""
    key = next((name for name in TEXT_KEYS if name in cell), None)
    if key is not None:
        weight = next((cell[name] for name in WEIGHT_KEYS if _is_number(cell.get(name))), known.weight)
        yield cell[key], known._replace(weight=weight)
    elif "en" in cell or "zh" in cell:
        notes += [OTHER_LANGUAGE] * any(not is_missing(cell[name]) for name in cell.keys() - {"en", "zh"})
        yield from ((cell.get(name), known._replace(language=name)) for name in ("en", "zh") if cell.get(name))
    elif all(map(_is_number, cell.values())):
        heaviest_first = sorted(cell.items(), key=lambda item: -item[1])
        yield from ((text, known._replace(weight=weight)) for text, weight in heaviest_first)
    else:
        raise RecordError("record", f"an answer must be a text: found an object of {', '.join(map(str, cell))[:80]}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not is_missing(value)
