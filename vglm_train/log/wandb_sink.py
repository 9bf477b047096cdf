"""What a run has logged, sent to W&B by a thread of its own, so that a step never waits for W&B.

The thread reads metrics.jsonl and tables/ as they grow: what W&B has not taken yet is on disk and takes no memory, and
a start sends what an earlier process did not in the same way.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Condition, Thread
from typing import Any

from vglm_train.config.metric_meanings import best_of
from vglm_train.config.run import Wandb
from vglm_train.log.alarms import Alarms
from vglm_train.log.delivered import last_delivered, record_delivered
from vglm_train.log.jsonl import METRICS, Cell, LoggedTable, NewRows, Row, read_tables, table_folder
from vglm_train.log.run_info import RunInfo
from vglm_train.log.sink import Sink
from vglm_train.log.wandb_run import WandbRun, wandb_run_id

logger = logging.getLogger("vglm_train")

SAY_EVERY = 30.0  # seconds between two messages of a run that waits for W&B at its end


class BestValues:
    """Best and last finite value of each metric for which one is better, over all rows of a run."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[float, float]] = {}

    def feed(self, row: Row) -> None:
        for name, value in row.items():
            if math.isfinite(value) and (best := best_of(name)):
                before = self._values.get(name, (value, value))[0]
                self._values[name] = (min(before, value) if best == "min" else max(before, value), value)

    def summary(self) -> dict[str, dict[str, float]]:
        """Name -> {"min" or "max": best, "last": last}."""
        return {name: {str(best_of(name)): best, "last": last} for name, (best, last) in self._values.items()}


class WandbSink(Sink):
    """Weights & Biases. A resumed run continues under its id, with every step once.

    W&B writes its file in blocks, so a kill loses the last seconds of it. metrics.jsonl and tables/ lose nothing: a
    resumed run sends the rows that W&B does not have yet again from there. Online, W&B's server says which step comes
    next. Offline, each process notes it when W&B has finished its file, see `log/delivered.py`.
    """

    def __init__(
        self,
        config: Wandb,
        folder: Path,
        info: RunInfo,
        stage: str,
        resolved: Mapping[str, Any],
        resume_step: int | None,
        source: tuple[Path, str] | None = None,
    ) -> None:
        """Starts or continues the run of `folder` in W&B: construct the JsonlSink, which cuts back, first.

        `resolved`: the whole configuration, JSON-ready; `resume_step`: see JsonlSink; `source`: the bundle that the
        run starts from, and the name of the run that wrote it. Raises UserError when W&B cannot start.
        """
        self._config, self._folder, self._files, self._name = config, folder, folder / "wandb", info.name
        run_id, offline = wandb_run_id(folder), config.mode == "offline"
        delivered = last_delivered(self._files, run_id, resume_step or 0) if offline else 0
        self._run = WandbRun(config, folder, run_id, info.name, stage, resolved)
        self._next_step = delivered + 1 if offline else self._run.next_step  # W&B has all rows of earlier steps
        self._last_step = delivered
        self._rows, self._alarms, self._source = NewRows(folder / METRICS), Alarms(info), source
        self._tables = deque(table for table in read_tables(folder) if table.step >= self._next_step)
        self._best = BestValues()
        self._bundle: Path | None = None
        self._abandoned = False
        self._news, self._is_news, self._closing = Condition(), True, False
        self._thread = Thread(target=self._work, name="W&B", daemon=True)  # a stalled service must not hold the process
        self._thread.start()

    def write(self, step: int, row: Row) -> None:
        self._tell()

    def image_table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        if step >= self._next_step:
            self._tables.append(LoggedTable(step, name, table_folder(self._folder, step, name)))
            self._tell()

    def bundle(self, folder: Path) -> None:
        self._bundle = folder

    def close(self) -> None:
        """Wait for the thread, `log.wandb.patience` seconds at most."""
        self._closing = True
        self._tell()
        end = time.monotonic() + self._config.patience
        try:
            while self._thread.is_alive() and (left := end - time.monotonic()) > 0:
                self._thread.join(min(left, SAY_EVERY))
                if self._thread.is_alive() and (left := end - time.monotonic()) > 0:
                    logger.info(f"waiting for W&B to take what was logged, {left:.0f} s at most (log.wandb.patience)")
        finally:
            if self._thread.is_alive():
                self._abandoned = True
                self._run.abandon()
                logger.warning(f"W&B did not answer, so its service was ended. {self._rest()}")

    def _tell(self) -> None:
        with self._news:
            self._is_news = True
            self._news.notify()

    def _work(self) -> None:
        try:
            if self._source is not None and self._next_step <= 1:
                self._try(self._run.uses, *self._source)
            closing = False
            while not closing:
                with self._news:
                    self._news.wait_for(lambda: self._is_news)
                    self._is_news, closing = False, self._closing
                self._send()
            if self._bundle is not None:
                self._try(self._run.bundle, self._bundle, self._name, self._source[1] if self._source else None)
            self._run.finish(self._best.summary())
            record_delivered(self._files, self._run.folder_name, self._last_step)
        except Exception as error:  # whatever W&B raises, training goes on
            if not self._abandoned:
                self._run.abandon()
                logger.warning(f"W&B has failed ({error}); training goes on without it. {self._rest()}")

    def _try(self, note: Callable[..., None], *what: object) -> None:
        """Note a bundle. Metrics do not need it, so they go on without it."""
        try:
            note(*what)
        except Exception as error:
            if not self._abandoned:
                logger.warning(f"W&B has not taken a bundle as an artifact: {error}")

    def _send(self) -> None:
        """Every row and table that is new, by step: W&B takes no step that is lower than one before."""
        for step, row in self._rows.read():
            notices = self._alarms.feed(step, row)
            self._best.feed(row)
            if step < self._next_step:
                continue
            self._send_tables(before=step)
            self._run.row(step, row)
            self._last_step = step
            for notice in notices:
                title = f"{self._name}: {notice.loss.upper()} {'is well again' if notice.over else 'does not learn'}"
                self._run.alert(title, notice.text.en, notice.over)  # the workspace is in English, too
        self._send_tables(before=self._last_step + 1)

    def _send_tables(self, before: int) -> None:
        while self._tables and self._tables[0].step < before:
            table = self._tables.popleft()
            self._run.table(table.step, table.name, *table.read())

    def _rest(self) -> str:
        """How what W&B does not have gets there."""
        sync = f", then `wandb sync {self._files}/offline-run-*`" if self._config.mode == "offline" else ""
        return (
            f"Nothing is lost: {METRICS} and tables/ in {self._folder} hold everything. Start the same command again, "
            f"also after the run's end: it sends what W&B does not have{sync}."
        )
