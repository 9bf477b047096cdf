"""Where rows of metrics go: metrics.jsonl, the console, Weights & Biases. Rank 0 owns the sinks.

A row is written once for training (`train/`, `perf/`, `data/`) and once for evaluation (`eval/`) at a step: two lines
of metrics.jsonl with the same step, one point in W&B, which merges by step.
"""

import logging
import os
import secrets
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from vglm_train.config.run import Wandb
from vglm_train.errors import UserError, needs_extra
from vglm_train.files import write_text
from vglm_train.log.console import Progress, describe
from vglm_train.log.delivered import last_delivered, record_delivered
from vglm_train.log.jsonl import (
    METRICS,
    Cell,
    Row,
    cut_back,
    cut_back_tables,
    read_rows,
    read_tables,
    to_line,
    write_table,
)

logger = logging.getLogger("vglm_train")

ROOT = Path(__file__).resolve().parents[2]  # of the repository, when this runs from one


class Sink(Protocol):
    """A destination for rows. Steps never decrease from call to call."""

    def write(self, step: int, row: Row) -> None:
        """Take a row of names and values at `step`; may be called again for the same step with other names."""

    def image_table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Take a table of pictures, texts and numbers."""

    def checkpointed(self, step: int) -> None:
        """Make everything up to `step` durable; called just before the checkpoint of `step` becomes visible."""

    def close(self) -> None: ...


class JsonlSink:
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


class ConsoleSink:
    """One readable line a row, through the project's logger: on the console and in log.txt."""

    def __init__(self, total_steps: int, resume_step: int | None = None) -> None:
        self._progress = Progress(total_steps, resume_step or 0, time.monotonic)

    def write(self, step: int, row: Row) -> None:
        logger.info(describe(step, row, self._progress))

    def image_table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        logger.info(f"step {step}: table {name} with {len(rows)} rows is in tables/")

    def checkpointed(self, step: int) -> None:
        pass

    def close(self) -> None:
        pass


class WandbSink:
    """Weights & Biases. A resumed run continues under its id, with every step once.

    W&B writes its file in blocks, so a kill loses the last seconds of it. metrics.jsonl and tables/ lose nothing: a
    resumed run sends the rows that W&B does not have yet again from there. Online, W&B's server says which step comes
    next. Offline, each process notes it when W&B has finished its file, see `log/delivered.py`.
    """

    def __init__(
        self,
        config: Wandb,
        folder: Path,
        run_name: str,
        resolved: dict[str, Any],
        run_id: str,
        resume_step: int | None,
    ) -> None:
        """Starts or continues run `run_id` in `folder`/wandb. Raises UserError when W&B cannot start.

        `resolved`: the whole configuration, JSON-ready. `resume_step`: see JsonlSink.
        """
        self._run: Any = None
        self._folder = folder / "wandb"
        self._next_step = 0  # W&B has all rows of earlier steps
        self._last_step = 0
        if config.mode == "disabled":
            return
        if config.mode == "offline":
            self._next_step = last_delivered(self._folder, run_id, resume_step or 0) + 1
        self._start(config, folder, run_id, run_name, resolved)
        self._catch_up(folder, resume_step or 0)

    def write(self, step: int, row: Row) -> None:
        if self._wants(step):
            self._run.log(row, step=step)
            self._last_step = step

    def image_table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        if not self._wants(step):
            return
        import wandb

        cells = [[wandb.Image(cell) if isinstance(cell, Image.Image) else cell for cell in row] for row in rows]
        self._run.log({name: wandb.Table(columns=list(columns), data=cells)}, step=step)

    def checkpointed(self, step: int) -> None:
        pass

    def close(self) -> None:
        if self._run is None:
            return
        name = Path(self._run.dir).parent.name
        self._run.finish()
        record_delivered(self._folder, name, self._last_step)

    def _start(self, config: Wandb, folder: Path, run_id: str, run_name: str, resolved: dict[str, Any]) -> None:
        with needs_extra("train", "log.wandb"):
            import wandb  # slow, and not needed when disabled

        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._run = wandb.init(
                mode=config.mode,
                project=config.project,
                entity=config.entity,
                id=run_id,
                name=run_name,
                resume="allow",
                dir=str(folder),
                config={**resolved, "code": code_version()},
                settings=wandb.Settings(console="off", silent=True, git_root=str(ROOT)),
            )
        except wandb.Error as error:
            raise UserError(
                f"W&B could not start: {error}. Run `wandb login`, or set log.wandb.mode=offline and sync later."
            ) from error
        if config.mode == "online":
            self._next_step = self._run.starting_step
            logger.info(f"W&B: {self._run.url}")

    def _wants(self, step: int) -> bool:
        return self._run is not None and step >= self._next_step

    def _catch_up(self, folder: Path, resume_step: int) -> None:
        """Send the rows and tables that W&B does not have yet."""
        tables: dict[int, list[Any]] = {}
        for table in read_tables(folder):
            tables.setdefault(table.step, []).append(table)
        rows: dict[int, Row] = {}
        for step, row in read_rows(folder / METRICS):
            if step <= resume_step and self._wants(step):
                rows.setdefault(step, {}).update(row)
        for step, row in sorted(rows.items()):
            self.write(step, row)
            for table in tables.get(step, []):
                self.image_table(step, table.name, *table.read())
        if rows:
            logger.info(f"W&B run {self._run.id}: sent {len(rows)} earlier steps again")


def wandb_run_id(folder: Path) -> str:
    """The W&B id of the run in `folder`, made at the first call and kept in `folder`/wandb/id."""
    path = folder / "wandb" / "id"
    if path.exists() and (known := path.read_text(encoding="utf-8").strip()):
        return known
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, secrets.token_hex(4) + "\n")
    return path.read_text(encoding="utf-8").strip()


def code_version() -> dict[str, str]:
    """Version of the package, and the git commit it runs from (with `+` when files differ from it), if there is one."""
    try:
        known = {"version": version("vglm_train")}
    except PackageNotFoundError:
        known = {}
    git = ["git", "-C", str(ROOT)]
    try:
        top = subprocess.run([*git, "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=True)
        if Path(top.stdout.strip()) != ROOT:  # installed below somebody else's repository
            return known
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return known
    return {**known, "commit": commit.stdout.strip() + ("+" if changes.stdout.strip() else "")}
