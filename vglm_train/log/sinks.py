"""Where rows of metrics go: metrics.jsonl and the console; W&B is in `log/wandb_sink.py`. Rank 0 owns the sinks.

A row is written once for training (`train/`, `perf/`, `data/`) and once for evaluation (`eval/`) at a step: two lines
of metrics.jsonl with the same step, one point in W&B, which merges by step.
"""

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

from vglm_train.log.console import Progress, describe
from vglm_train.log.jsonl import METRICS, Cell, Row, cut_back, cut_back_tables, to_line, write_table
from vglm_train.log.sink import Sink

logger = logging.getLogger("vglm_train")


class JsonlSink(Sink):
    """metrics.jsonl, one line and one write call a row; tables below tables/."""

    def __init__(self, folder: Path, resume_step: int | None) -> None:
        """Cuts what was logged back to `resume_step`; None starts empty."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        cut_back(folder / METRICS, resume_step or 0)
        cut_back_tables(folder, resume_step or 0)
        self._file = (folder / METRICS).open("ab", buffering=0)

    def write(self, step: int, row: Row) -> None:
        self._file.write(to_line(step, row).encode())

    def image_table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        write_table(self.folder, step, name, columns, rows)

    def checkpointed(self, step: int) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()


class ConsoleSink(Sink):
    """One readable line a row, through the project's logger: on the console and in log.txt."""

    def __init__(self, total_steps: int, resume_step: int | None = None) -> None:
        self._progress = Progress(total_steps, resume_step or 0, time.monotonic)

    def write(self, step: int, row: Row) -> None:
        logger.info(describe(step, row, self._progress))

    def image_table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        logger.info(f"step {step}: table {name} with {len(rows)} rows is in tables/")
