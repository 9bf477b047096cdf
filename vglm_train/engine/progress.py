"""What a run must remember besides weights: how far it is, and what it has read. How long it will be."""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from vglm_train.checkpoint.resume import read_state
from vglm_train.config.batch_split import BatchSplit, split
from vglm_train.config.run import Config
from vglm_train.errors import UserError

VERSION = 1


@dataclass(slots=True)
class RunState:
    """Progress of a run. The data position is `stream_position` alone: order and randomness are functions of it."""

    step: int = 0  # updates tried, skipped ones among them
    samples: int = 0  # stream rows consumed, damaged ones among them
    skipped_in_row: int = 0  # steps without an update because something was not finite, up to now
    skipped: int = 0
    damaged: dict[str, int] = field(default_factory=dict)  # cause -> samples
    sample_counts: dict[str, int] = field(default_factory=dict)  # by source and by language of the chosen caption
    best_value: float | None = None
    best_step: int | None = None
    best_of: dict[str, str] | None = None  # of `best_value`: see checkpoint.inputs.judged_by
    evaluations_since_best: int = 0
    ended: bool = False  # before the plan's end, because scores no longer rose
    streams: int = 0  # times that the data was begun anew, because it had changed between two starts
    stream_start: int = 0  # `samples` when the present stream began
    inputs: dict[str, dict[str, str]] = field(default_factory=dict)  # see checkpoint.inputs

    @property
    def stream_position(self) -> int:
        """Samples read of the present stream."""
        return self.samples - self.stream_start

    def begin_stream(self) -> None:
        """Read the data from its beginning, in an order that no earlier stream of this run had."""
        self.streams, self.stream_start = self.streams + 1, self.samples

    def stream_seed(self, seed: int) -> int:
        """The seed of the present stream in a run whose seed is `seed`."""
        if not self.streams:
            return seed
        digest = hashlib.blake2b(f"{seed} stream {self.streams}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) >> 1

    def judge_by(self, best_of: dict[str, str] | None) -> bool:
        """From now on `best_value` is of `best_of`. Whether a value of something else was forgotten."""
        is_other = self.best_value is not None and self.best_of != best_of
        if is_other:
            self.best_value = self.best_step = None
            self.evaluations_since_best, self.ended = 0, False
        self.best_of = best_of
        return is_other

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the version of this format."""
        values = asdict(self)
        return {"version": VERSION, "drawn": values.pop("sample_counts"), **values}

    @classmethod
    def read(cls, checkpoint: Path) -> Self:
        """Of a checkpoint folder. UserError where it cannot be read."""
        try:
            return cls.from_dict(read_state(checkpoint))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{checkpoint}: state.json is not of this program's making ({error}). "
                "Point `latest` to another checkpoint."
            ) from error

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Inverse of `to_dict`. Raises ValueError for a format this code does not know."""
        values = dict(values)
        version = values.pop("version", None)
        if version != VERSION:
            raise ValueError(f"state version {version}, this code reads {VERSION}")
        if "drawn" in values:  # the key of this format
            values["sample_counts"] = values.pop("drawn")
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Plan:
    """Lengths of a run in samples, and how a step is shared among ranks and micro-batches."""

    epoch_samples: int
    total_samples: int  # a whole number of steps
    warmup_samples: int
    split: BatchSplit

    @classmethod
    def of(cls, config: Config, epoch_samples: int, world: int) -> Self:
        """Resolve lengths; a run ends with the last whole step."""
        batch = config.data.global_batch
        total = config.run.length.samples_of(epoch_samples, batch)
        return cls(
            epoch_samples=epoch_samples,
            total_samples=max(1, total // batch) * batch,
            warmup_samples=config.optim.warmup.samples_of(epoch_samples, batch),
            split=split(config, world),
        )

    @property
    def global_batch(self) -> int:
        return self.split.batch

    @property
    def steps(self) -> int:
        return self.total_samples // self.global_batch
