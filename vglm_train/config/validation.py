"""Rules a value must keep, and the error that carries which field broke one.

Sections call these from `__post_init__`; `config.load` turns the error into one that names file and line.
"""

from collections.abc import Iterable

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


def positive(section: object, *names: str) -> None:
    """Each named value is above zero; None passes."""
    for name, value in _named_values(section, names):
        if value <= 0:
            raise FieldError(name, reason=f"must be above 0, found {value}")


def not_negative(section: object, *names: str) -> None:
    """Each named value is zero or more; None passes."""
    for name, value in _named_values(section, names):
        if value < 0:
            raise FieldError(name, reason=f"must not be negative, found {value}")


def below_one(section: object, *names: str) -> None:
    """Each named value lies in [0, 1); None passes."""
    for name, value in _named_values(section, names):
        if not 0 <= value < 1:
            raise FieldError(name, reason=f"must be at least 0 and below 1, found {value}")


def not_empty(section: object, *names: str) -> None:
    """Each named text or list holds something; None passes."""
    for name, value in _named_values(section, names):
        if not (value.strip() if isinstance(value, str) else value):
            raise FieldError(name, reason="must not be empty")


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


def _named_values(section: object, names: Iterable[str]) -> list:
    values = [(name, getattr(section, name)) for name in names]
    return [(name, value) for name, value in values if value is not None]
