"""The file of `vglm benchmark`: which machine, which versions, and a row for each measurement."""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from vglm_train.errors import UserError
from vglm_train.files import write_json

FORMAT = 1
MEASURED = "measured by the command"
NUMBERS = ("samples_per_s", "ms", "spread", "peak_gib", "floor_ms", "ratio")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement, or why there is none. Numbers that were not measured are None; units as `record` says."""

    case: str
    name: str
    samples_per_s: float | None = None
    ms: float | None = None
    spread: float | None = None
    peak_gib: float | None = None
    floor_ms: float | None = None
    ratio: float | None = None  # of ms to floor_ms
    method: str = ""
    values: dict[str, float | None] = field(default_factory=dict)  # what else was measured, by name with its unit
    problem: str = ""  # why a case was left out, or failed

    def get(self, key: str) -> float | None:
        """A number by its name, of `values` too. UserError for one that the row does not hold."""
        value = getattr(self, key) if key in NUMBERS else self.values.get(key)
        if value is None:
            raise UserError(f"{self.case}, {self.name}: no {key} was measured")
        return float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where it was measured. None: not known."""

    card: str | None = None
    card_gib: float | None = None
    driver: str | None = None
    cuda: str | None = None
    cpu: str | None = None
    cores: int | None = None
    ram_gib: float | None = None
    product_tflops: float | None = None  # bf16, 8192^3, kept up for a second
    copy_tb_s: float | None = None  # of a large copy, read and written
    versions: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything of a file."""

    command: str
    date: str  # UTC
    source: str  # MEASURED, or where the numbers were copied from
    shapes: str  # full or tiny
    version: str | None
    commit: str | None
    machine: Machine
    rows: tuple[Row, ...]

    def row(self, case: str, name: str) -> Row:
        """UserError if there is not exactly one."""
        found = [row for row in self.rows if (row.case, row.name) == (case, name)]
        if len(found) != 1:
            raise UserError(f"{len(found)} rows are named {name!r} of case {case!r}")
        return found[0]

    def write(self, path: Path) -> None:
        """Whole or not at all."""
        write_json(path, {"format": FORMAT, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> Self:
        """UserError for a file that is no such results, and names the key."""
        try:
            content = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise UserError(f"{path}: no results of `vglm benchmark`: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"{path}: no results of `vglm benchmark`: it is no JSON ({error})") from error
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise UserError(f"{path}: no results of `vglm benchmark` in format {FORMAT}")
        try:
            rows = tuple(_checked(Row, row, f"rows.{number}") for number, row in enumerate(content.pop("rows")))
            machine = _checked(Machine, content.pop("machine"), "machine")
            return cls(**{**content, "machine": machine, "rows": rows})
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: not as `vglm benchmark` writes it: {error}") from error


def _checked(kind: Any, content: Any, where: str) -> Any:
    """An object of a class of this file, every number finite. ValueError otherwise."""
    known = {each.name: each.type for each in fields(kind)}
    if not isinstance(content, dict) or (unknown := content.keys() - known):
        raise ValueError(f"{where} {'holds unknown keys ' + ', '.join(sorted(unknown)) if content else 'is empty'}")
    for key, value in [*content.items(), *(content.get("values") or {}).items()]:
        number = key in NUMBERS or key in (content.get("values") or {})
        if number and value is not None and not (type(value) in (int, float) and math.isfinite(value)):
            raise ValueError(f"{where}.{key} is no number: {value!r}")
    return kind(**content)
