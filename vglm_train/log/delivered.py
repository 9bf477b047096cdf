"""RUN/wandb/delivered.json: which step W&B has got so far, so that an offline run sends every step once.

Every start of a run makes a folder of its own below RUN/wandb. The file names each folder that is whole, with the last
step that it holds. A folder that it does not name belongs to a process that was killed.
"""

import json
import shutil
from pathlib import Path

from vglm_train.files import write_json

FILE = "delivered.json"


def last_delivered(folder: Path, run_id: str, resume_step: int) -> int:
    """The last step that the folders of run `run_id` in `folder` (RUN/wandb) hold; 0 without any.

    Removes folders that a kill cut off: their rows, up to the checkpoint of `resume_step`, are in metrics.jsonl and
    tables/. But what has been uploaded must not be sent again, since `wandb sync` would append it as new steps:
    - A folder that `wandb sync` has uploaded stays. W&B's summary in it tells the last step that was uploaded.
    - The folder of an online process stays. Its rows are on the server, except for what the kill may have left for
      `wandb sync --include-online`.
    """
    steps = _read(folder)
    for path in sorted(folder.glob(f"*run-*-{run_id}")):
        if path.name in steps:
            continue
        uploaded = resume_step if path.name.startswith("run-") else _uploaded_step(path, run_id)
        if uploaded is None:
            shutil.rmtree(path)
        else:
            record_delivered(folder, path.name, uploaded)
    return max(_read(folder).values(), default=0)


def record_delivered(folder: Path, name: str, step: int) -> None:
    """Note that the W&B folder `name` in `folder` is whole and holds steps up to `step`."""
    write_json(folder / FILE, {**_read(folder), name: step})


def _read(folder: Path) -> dict[str, int]:
    path = folder / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _uploaded_step(path: Path, run_id: str) -> int | None:
    """The last step of a folder that `wandb sync` has uploaded; None if it has not. 0 if there was no step.

    `wandb sync` marks a whole file as synced. It leaves only its state beside a file that a kill cut off, and would
    upload that file again, so the mark is set here.
    """
    synced = path / f"run-{run_id}.wandb.synced"
    if not synced.exists():
        if not synced.with_suffix(".syncstate").exists():
            return None
        synced.touch()
    summary = path / "files" / "wandb-summary.json"  # written by `wandb sync`
    return int(json.loads(summary.read_text(encoding="utf-8")).get("_step", 0)) if summary.exists() else 0
