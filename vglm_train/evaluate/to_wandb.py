"""An evaluation as a run of W&B: its scores, its files and its page, and which bundle it is of."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from vglm_train.checkpoint.bundle.format import read_document
from vglm_train.config.metric_names import VqaTask, answer_metric
from vglm_train.config.run import Wandb
from vglm_train.evaluate.protocols.schema import names
from vglm_train.log.wandb_run import WandbRun

JOB = "evaluate"


def log_evaluation(
    config: Wandb,
    mode: Literal["online", "offline"],
    bundle: Path,
    task: str,
    report: Mapping[str, Any],
    files: Sequence[Path],
) -> None:
    """Log what was written as `files`, the JSON last, in the project that `config` of the bundle's training names.

    UserError when W&B cannot start.
    """
    origin = str(read_document(bundle)["origin"].get("run", bundle.resolve().parent.name))
    settings = replace(config, mode=mode, job_type=JOB)
    about = {key: value for key, value in report.items() if isinstance(value, str | int | float)}
    scores = metrics(task, report["scores"])
    folder, stem = files[-1].parent, files[-1].stem
    run = WandbRun(settings, folder, secrets.token_hex(4), f"{origin}: {stem}", JOB, {"run": {"stage": JOB}, **about})
    try:
        run.uses(bundle, origin)
        run.evaluation(f"{origin}-{stem}", scores, files)
    finally:
        run.finish({})


def metrics(task: str, scores: Mapping[str, Any]) -> dict[str, float]:
    """Scores by the names that they have during training; those of a protocol after its name."""
    if task in names():
        return {f"{task}/{name}": value for name, value in scores.items()}
    if task not in get_args(VqaTask):
        return dict(scores)
    groups = [(who, score, value) for who, values in scores.items() for score, value in values.items()]
    return {answer_metric(cast(VqaTask, task), score, who): value for who, score, value in groups}
