"""What a run must remember besides weights: how far it is, and what it has seen."""

from dataclasses import asdict, dataclass, field
from typing import Self

VERSION = 1


@dataclass(slots=True)
class RunState:
    """Progress of a run. The data position is `samples` alone: order and randomness are functions of it."""

    step: int = 0  # updates tried, skipped ones among them
    samples: int = 0  # stream rows consumed, damaged ones among them
    skipped_in_row: int = 0  # steps without an update because something was not finite, up to now
    skipped: int = 0
    damaged: dict[str, int] = field(default_factory=dict)  # cause -> samples
    drawn: dict[str, int] = field(default_factory=dict)  # source, language of the caption drawn -> samples
    best_value: float | None = None
    best_step: int | None = None
    ended: bool = False  # before its plan, since scores no longer rose

    def to_dict(self) -> dict:
        """JSON-ready, with the version of this format."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict) -> Self:
        """Inverse of `to_dict`. Raises ValueError for a format this code does not know."""
        values = dict(values)
        version = values.pop("version", None)
        if version != VERSION:
            raise ValueError(f"state version {version}, this code reads {VERSION}")
        return cls(**values)
