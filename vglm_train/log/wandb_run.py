"""One run as W&B gets it: started or continued, told rows, tables, alerts and bundles, and ended.

Calls may wait for W&B's service, so only the thread of `log/wandb_sink.py` makes them, but for start and `abandon`.
"""

import contextlib
import logging
import os
import re
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from PIL import Image

from vglm_train.config.metric_meanings import best_of
from vglm_train.config.run import Wandb
from vglm_train.errors import UserError, needs_extra
from vglm_train.files import write_text
from vglm_train.log.jsonl import Cell, Row

logger = logging.getLogger("vglm_train")

ROOT = Path(__file__).resolve().parents[2]  # of the repository, when this runs from one
SERVICE = "wandb-core"  # beginning of the name of W&B's service, a child of this process
BUNDLE, EVALUATION = "bundle", "evaluation"  # types of W&B's artifacts


class WandbRun:
    """A run of W&B. Every start with the same id continues it."""

    def __init__(
        self, config: Wandb, folder: Path, run_id: str, name: str, stage: str, resolved: Mapping[str, Any]
    ) -> None:
        """Start it below `folder`/wandb. UserError when W&B cannot start.

        `resolved`: the whole configuration, JSON-ready; `stage`: W&B's job type, where the configuration names none.
        """
        with needs_extra("train", "log.wandb"):
            import wandb  # slow, and not needed when disabled

        folder.mkdir(parents=True, exist_ok=True)
        self._config, self._defined = config, set[str]()
        self._last_step: int | None = None  # that this process has logged
        try:
            self._run = wandb.init(
                mode=config.mode,
                project=config.project,
                entity=config.entity,
                id=run_id,
                name=name,
                tags=list(config.tags) or None,
                notes=config.notes,
                group=config.group,
                job_type=config.job_type or stage,
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
            logger.info(f"W&B: {self._run.url}")

    @property
    def folder_name(self) -> str:
        """Of W&B's files, below RUN/wandb."""
        return Path(self._run.dir).parent.name

    @property
    def next_step(self) -> int:
        """Online: the first step that W&B's server does not have."""
        return int(self._run.starting_step)

    def row(self, step: int, row: Row) -> None:
        """Log values. The run's summary gets the last value of each, and the best one where one is better."""
        for name in row.keys() - self._defined:
            best = best_of(name)
            self._run.define_metric(name, summary=f"{best},last" if best else "last")
            self._defined.add(name)
        self._run.log(row, step=step)
        self._last_step = step

    def table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Log a table of pictures, texts and numbers."""
        import wandb

        cells = [[wandb.Image(cell) if isinstance(cell, Image.Image) else cell for cell in row] for row in rows]
        self._run.log({name: wandb.Table(columns=list(columns), data=cells)}, step=step)

    def alert(self, title: str, text: str, over: bool) -> None:
        """Send a message to those who follow the run. `over`: what was wrong is so no longer."""
        level = "INFO" if over else "WARN"
        self._run.alert(title=title, text=text, level=level, wait_duration=1)  # seconds; by default a minute

    def uses(self, folder: Path, run: str) -> None:
        """Note that this run starts from the bundle in `folder`, which the run named `run` wrote.

        W&B recognises the artifact that that run logged by its name and content. It takes this only online.
        """
        if self._config.mode == "online":
            self._run.use_artifact(self._artifact(folder, run, {}))

    def bundle(self, folder: Path, run: str, source: str | None) -> None:
        """Log the run's result as an artifact. `source`: the run whose bundle this one started from."""
        self._run.log_artifact(self._artifact(folder, run, {"run": run, "starts_from": source}))

    def evaluation(self, name: str, scores: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Log the scores of an evaluation, its page as a panel, and its files as an artifact."""
        import wandb

        self._run.summary.update(dict(scores))
        artifact = wandb.Artifact(artifact_name(name, EVALUATION), type=EVALUATION)
        for file in files:
            artifact.add_file(str(file))
            if file.suffix == ".html":
                self._run.log({EVALUATION: wandb.Html(file.read_text("utf-8"), inject=False)})
        self._run.log_artifact(artifact)

    def finish(self, summary: Mapping[str, Mapping[str, float]]) -> None:
        """Wait until W&B has taken everything.

        `summary`: name -> best and last value of the whole run; W&B's own knows the rows of this process only.
        """
        if self._last_step is not None:
            self._run.log({}, step=self._last_step, commit=True)  # else it comes after the summary, and changes it
        self._run.summary.update({name: dict(values) for name, values in summary.items()})
        self._run.finish()

    def abandon(self) -> None:
        """End W&B's service, which has failed or does not answer: this process would wait for it at its end."""
        import psutil
        import wandb

        for child in psutil.Process().children():
            if child.name().startswith(SERVICE):
                child.kill()
        # It tells the service to end, which is gone, and then exits with the service's status: not ours.
        with contextlib.suppress(Exception, SystemExit):
            wandb.teardown()

    def _artifact(self, folder: Path, run: str, metadata: dict[str, Any]) -> Any:
        import wandb

        artifact = wandb.Artifact(artifact_name(run, BUNDLE), type=BUNDLE, metadata=metadata)
        if self._config.bundle == "upload":
            artifact.add_dir(str(folder), policy="immutable")  # without a copy in W&B's cache
        else:
            artifact.add_reference(folder.resolve().as_uri())
        return artifact


def artifact_name(name: str, kind: str) -> str:
    """Name of an artifact, for any name: W&B takes letters, digits, -, _ and dots, 128 of them."""
    return f"{kind}-{re.sub(r'[^a-zA-Z0-9_.-]', '_', name)}"[:128]


def wandb_run_id(folder: Path) -> str:
    """The W&B id of the run in `folder`, kept in `folder`/wandb/id.

    The first call makes it, or takes the one that the agent of a sweep has chosen.
    """
    path = folder / "wandb" / "id"
    if path.exists() and (known := path.read_text(encoding="utf-8").strip()):
        return known
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, (os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)) + "\n")
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
