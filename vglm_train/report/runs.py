"""Run folders as the report reads them, whether the run is complete, under way or was killed."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from vglm_train.errors import UserError
from vglm_train.log.jsonl import METRICS, LoggedTable, Row, read_rows, read_tables
from vglm_train.log.run_info import RunInfo

Series = tuple[list[float], list[float]]  # x, y
FORMER = "data/skipped", "data/damaged"  # beginning of names that older runs logged, and what it is now


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """A run's metrics. `label` is unique among the runs of a report."""

    label: str
    folder: Path
    rows: list[tuple[int, Row]]
    info: RunInfo | None  # None: the folder has no facts.json
    tables: list[LoggedTable]

    def names(self) -> set[str]:
        return {name for _, row in self.rows for name in row}

    def series(self, name: str) -> Series:
        """Steps and finite values of a metric; empty where the run has none."""
        points = [(step, row[name]) for step, row in self.rows if math.isfinite(row.get(name, math.nan))]
        return [float(step) for step, _ in points], [value for _, value in points]

    def is_finite(self, name: str) -> bool:
        """Whether the newest row that has a metric has a finite value of it."""
        return math.isfinite(next((row[name] for _, row in reversed(self.rows) if name in row), math.nan))

    def last(self, name: str) -> float | None:
        """The newest finite value of a metric."""
        values = self.series(name)[1]
        return values[-1] if values else None

    def until(self, step: int) -> "LoggedRun":
        """As it was at a step."""
        return replace(self, rows=[(at, row) for at, row in self.rows if at <= step])

    @property
    def last_step(self) -> int:
        return self.rows[-1][0]


def read_runs(folders: list[Path]) -> list[LoggedRun]:
    """The runs, without repeated folders. UserError for a folder that is not a run, or has logged nothing yet."""
    runs = [_read(folder) for folder in dict.fromkeys(folder.resolve() for folder in folders)]
    labels = [run.label for run in runs]
    return [
        LoggedRun(f"{run.label} ({run.folder})", run.folder, run.rows, run.info, run.tables)
        if labels.count(run.label) > 1
        else run
        for run in runs
    ]


def _read(folder: Path) -> LoggedRun:
    path = folder / METRICS
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Give the folder of a run: it holds {METRICS}.")
    if not path.is_file():
        raise UserError(
            f"{folder} holds no {METRICS}: it is not a run folder, or the run has not reached its first log step."
        )
    rows = [(step, {name.replace(*FORMER): value for name, value in row.items()}) for step, row in read_rows(path)]
    if not rows:
        raise UserError(
            f"{path} holds no complete line yet. Wait for the first log step (log.every steps) and try again."
        )
    info = RunInfo.read(folder)
    return LoggedRun(info.name if info else folder.name, folder, rows, info, read_tables(folder))
