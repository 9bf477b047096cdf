"""Rules a value must keep, and the error that carries which field broke one.

A field's `Annotated` holds its description, which the schema and the reference pages show, and its limits. Sections
call `check_limits` and other rules from `__post_init__`. `config.load` turns the error into one that names file and
line.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, get_type_hints

from vglm_train.errors import UserError


class FieldError(UserError, ValueError):
    """A value or a combination of values that cannot be.

    `fields` are the dotted names involved, relative to the section that raises (whole names in `config.check`);
    the first one heads the message.
    """

    def __init__(self, *fields: str, reason: str) -> None:
        super().__init__(f"{fields[0]}: {reason}")
        self.fields = fields
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """The numbers that a field takes, in `Annotated`; of a list, each of them. `why` ends the message."""

    above: float | None = None
    least: float | None = None
    below: float | None = None
    most: float | None = None
    why: str | None = None

    def __contains__(self, value: float) -> bool:
        return not math.isnan(value) and not (  # comparisons with NaN are all false
            (self.above is not None and value <= self.above)
            or (self.least is not None and value < self.least)
            or (self.below is not None and value >= self.below)
            or (self.most is not None and value > self.most)
        )

    def __str__(self) -> str:
        """What a value must be, in words."""
        if (self.least, self.most) == (0, 1):
            return "a fraction from 0 to 1"
        words = {"above": self.above, "at least": self.least, "below": self.below, "at most": self.most}
        return " and ".join(f"{word} {limit}" for word, limit in words.items() if limit is not None)


@dataclass(frozen=True, slots=True)
class NotEmpty:
    """A text or list that holds something, in `Annotated`."""


POSITIVE, NOT_NEGATIVE = Range(above=0), Range(least=0)
FRACTION, BELOW_ONE = Range(least=0, most=1), Range(least=0, below=1)
NOT_EMPTY = NotEmpty()


def check_limits(section: object) -> None:
    """Each field of a configuration section keeps the Range and NotEmpty of its annotation; None passes."""
    kind: Any = type(section)
    for name, limits in _limits(kind).items():
        value = getattr(section, name)
        for limit in limits if value is not None else ():
            if isinstance(limit, NotEmpty):
                _check_not_empty(name, value)
            else:
                check_range(name, value, limit)


@cache
def _limits(section: type) -> dict[str, tuple[Range | NotEmpty, ...]]:
    hints = get_type_hints(section, include_extras=True)
    extras = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return {name: tuple(e for e in found if isinstance(e, Range | NotEmpty)) for name, found in extras.items()}


def _check_not_empty(name: str, value: str | tuple[Any, ...]) -> None:
    if not (value.strip() if isinstance(value, str) else value):
        raise FieldError(name, reason="must not be empty")


def check_range(name: str, value: float | tuple[float, ...], limit: Range) -> None:
    """FieldError if the value, or one of a list's, is outside of the limit."""
    numbers = value if isinstance(value, tuple) else (value,)
    if not all(number in limit for number in numbers):
        each = "each " if isinstance(value, tuple) else ""
        must = "must not be negative" if str(limit) == "at least 0" else f"must be {limit}"
        shown = list(numbers) if isinstance(value, tuple) else value
        why = f"; {limit.why}" if limit.why else ""
        raise FieldError(name, reason=f"{each}{must}, found {shown}{why}")


def positive(section: object, *names: str) -> None:
    """Each named value is above zero; None passes."""
    for name in names:
        value = getattr(section, name)
        if value is not None:
            check_range(name, value, POSITIVE)


def unique(field: str, values: Iterable[str], what: str) -> None:
    """No value stands twice; the message names the entry that repeats one."""
    seen: dict[str, int] = {}
    for index, value in enumerate(values):
        if value in seen:
            raise FieldError(f"{field}.{index}", reason=f"{what} {value!r} is already that of entry {seen[value]}")
        seen[value] = index


def multiple(section: object, name: str, of: str, why: str) -> None:
    """The value of `name` is a whole multiple of the value of `of`; the message gives the nearest that are."""
    value, unit = getattr(section, name), getattr(section, of)
    if value % unit:
        near = [n for n in (value // unit * unit, (value // unit + 1) * unit) if n]
        reason = f"{value} is not a multiple of {of} {unit}: {why}. Nearest: {' or '.join(map(str, near))}"
        raise FieldError(name, of, reason=reason)
