"""facts.json of a run folder: lengths and sizes of the run, which reports and alarms judge its metrics by."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from vglm_train.files import write_json

FACTS = "facts.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunInfo:
    """Lengths and sizes that metrics are judged by."""

    name: str
    total_steps: int
    warmup_steps: int
    epoch_samples: int
    global_batch: int
    candidates: int  # texts each image is compared with in ITC
    vocabulary: int
    weights: dict[str, float] = field(default_factory=lambda: {"itc": 1.0, "itm": 1.0, "itg": 1.0})
    shared: tuple[str, ...] = ()  # in words, what validation has of the training data: scores are too good then

    def write(self, folder: Path) -> None:
        """Store as `folder`/facts.json, in one move."""
        write_json(folder / FACTS, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """From `folder`/facts.json; None if there is none, or one of another version of this program."""
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            return cls(**{**facts, "shared": tuple(facts.get("shared", ()))})
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def expected(self) -> dict[str, float]:
        """Each loss of a model that guesses evenly: ln(candidates), ln 2, ln(vocabulary); weighted ones only."""
        even = {"itc": self.candidates, "itm": 2, "itg": self.vocabulary}
        return {name: math.log(choices) for name, choices in even.items() if self.weights.get(name)}

    def expected_start(self) -> float:
        """The weighted sum of `expected`: about where the total loss of random weights starts."""
        return sum(self.weights[name] * loss for name, loss in self.expected().items())
