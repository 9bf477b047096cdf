"""W&B's own reader of its files, to check what was written."""

import json
import subprocess
from pathlib import Path

from wandb.util import get_core_path


def records(folder: Path) -> list[dict]:
    """Every record of every offline file of the run in `folder`. A file that was cut short is read up to the cut."""
    found: list[dict] = []
    for path in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb")):
        command = [get_core_path(), "leet", "inspect", "-no-observability", "-json", "-run-file", str(path)]
        output = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False).stdout
        found += [json.loads(line) for line in output.splitlines()]
    return found


def summary(found: list[dict]) -> dict:
    """The last value of each key of the run's summary, of the records `found`."""
    updates = [record["summary"].get("update", {}) for record in found if record["type"] == "summary"]
    return {name: value for update in updates for name, value in update.items()}


def logged_steps(folder: Path) -> list[int]:
    """The step of each row of metrics, in the order of the files."""
    return [record["history"]["step"]["num"] for record in records(folder) if record["type"] == "history"]
