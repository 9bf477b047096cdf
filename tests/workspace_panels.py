"""What W&B's workspaces show, read from their JSON."""

import re
from typing import Any

from vglm_train.report.workspace import build, spec


def curves(layout: str) -> list[str]:
    """For each panel of curves of a layout, a regular expression of the metrics that it shows."""
    return [_pattern(panel["config"]) for panel in _panels(layout) if panel["viewType"] == "Run History Line Plot"]


def tables(layout: str) -> set[str]:
    """The tables that a layout shows."""
    found = [str(panel) for panel in _panels(layout) if panel["viewType"] == "Weave"]
    return {name for text in found for name in re.findall(r"'key': {[^{}]*'val': '(\w+)'", text)}


def unshown(names: set[str], layout: str) -> set[str]:
    """Those of the metrics that no panel of a layout shows."""
    patterns = curves(layout)
    return {name for name in names if not any(re.fullmatch(pattern, name) for pattern in patterns)}


def _panels(layout: str) -> list[dict[str, Any]]:
    sections = spec(build(layout, "project", "somebody"))["section"]["panelBankConfig"]["sections"]
    return [panel for section in sections for panel in section["panels"]]


def _pattern(config: dict[str, Any]) -> str:
    return str(config.get("metricRegex") or "|".join(map(re.escape, config["metrics"])))
