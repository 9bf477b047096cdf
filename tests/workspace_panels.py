"""What W&B's workspaces show, read from their JSON."""

import re
from typing import Any

from vglm_train.config.metric_meanings import EVALUATION, TRAINING
from vglm_train.report.workspace import build, expand, spec

LINES = "Run History Line Plot"
# every metric that the code logs
NAMES = {
    name.replace(".+", "some")
    for metric in (*TRAINING, *EVALUATION)
    for each in metric.names.split()
    for name in expand(each)
}


def curves(layout: str) -> list[str]:
    """For each panel of curves of a layout, a regular expression of the metrics that it shows."""
    return [_pattern(panel["config"]) for panel in _panels(layout) if panel["viewType"] == LINES]


def titles(layout: str) -> dict[str, list[str]]:
    """The panels of curves of a layout, by section."""
    return {
        section["name"]: [p["config"]["chartTitle"] for p in section["panels"] if p["viewType"] == LINES]
        for section in _sections(layout)
    }


def tables(layout: str) -> set[str]:
    """The tables that a layout shows."""
    found = [str(panel) for panel in _panels(layout) if panel["viewType"] == "Weave"]
    return {name for text in found for name in re.findall(r"'key': {[^{}]*'val': '(\w+)'", text)}


def unshown(names: set[str], layout: str) -> set[str]:
    """Those of the metrics that no panel of a layout shows."""
    patterns = curves(layout)
    return {name for name in names if not any(re.fullmatch(pattern, name) for pattern in patterns)}


def _panels(layout: str) -> list[dict[str, Any]]:
    return [panel for section in _sections(layout) for panel in section["panels"]]


def _sections(layout: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = spec(build(layout, "project", "somebody"))["section"]["panelBankConfig"]["sections"]
    return found


def _pattern(config: dict[str, Any]) -> str:
    return str(config.get("metricRegex") or "|".join(map(re.escape, config["metrics"])))
