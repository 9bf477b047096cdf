"""What of `panels.py` the live page and the picture draw of some runs: the panels of what these have logged."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from vglm_train.config.metric_meanings import pattern
from vglm_train.report.panels import SECTIONS, Panel, Section


@dataclass(frozen=True, slots=True)
class Chart:
    """A panel, and the logged metrics that it shows."""

    panel: Panel
    names: list[str]


OTHERS = Section("Others", "其他", ())

Page = list[tuple[Section, list[Chart]]]


def charts(metrics: Iterable[str]) -> Page:
    """All sections with their curves, in order. What no panel shows, as of another version, stands in the last one."""
    return _page(sorted(metrics), lambda panel: panel.kind != "table" and panel.x == "Step")


def tables(names: Iterable[str]) -> list[tuple[Section, str]]:
    """Each of these tables, in the order of sections, with the section that it belongs to."""
    page = _page(sorted(names), lambda panel: panel.kind == "table")
    return [(section, name) for section, found in page for chart in found for name in chart.names]


def _page(logged: list[str], wanted: Callable[[Panel], bool]) -> Page:
    sections = [(section, list(_charts(section, logged, wanted))) for section in SECTIONS]
    shown = {name for _, found in sections for chart in found for name in chart.names}
    others = [Chart(Panel(name, name, name), [name]) for name in logged if name not in shown]
    return [*sections, (OTHERS, others)]


def _charts(section: Section, logged: list[str], wanted: Callable[[Panel], bool]) -> Iterator[Chart]:
    for panel in filter(wanted, section.panels):
        patterns = [re.compile(pattern(each)) for each in panel.names.split()]
        if names := [name for each in patterns for name in logged if each.fullmatch(name)]:
            yield Chart(panel, list(dict.fromkeys(names)))
