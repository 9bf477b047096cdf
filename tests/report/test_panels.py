"""One table of panels for every page: the live page and the picture of the report draw what W&B's workspace shows."""

import re

import pytest
from workspace_panels import NAMES, titles

from vglm_train.config.run import StageName
from vglm_train.report import panels
from vglm_train.report.charts import OTHERS, charts, tables

CURVES = [p for section in panels.SECTIONS for p in section.panels if p.kind != "table" and p.x == "Step"]


def test_every_metric_has_a_chart():
    page = charts(NAMES)
    assert {
        name for section, found in page for chart in found if section is not OTHERS for name in chart.names
    } == NAMES
    assert page[-1] == (OTHERS, [])


def test_every_panel_of_curves_has_a_metric():
    assert [chart.panel for _, found in charts(NAMES) for chart in found] == CURVES


@pytest.mark.parametrize("stage", panels.STAGES)
def test_the_sections_are_those_of_the_workspace(stage: StageName):
    """Panels by samples are W&B's alone: the others share their range of steps and their cursor."""
    sections = {section.en: [p.en for p in section.panels if p in CURVES] for section in panels.sections(stage)}
    shown = {section: [t for t in found if "by samples" not in t] for section, found in titles(stage).items()}
    assert shown == sections
    assert list(sections) == [section.en for section, _ in charts(NAMES) if section.en in sections]


def test_what_no_panel_shows_is_seen_nevertheless():
    page = charts({"train/loss", "train/wishes", "eval/en_wishes"})
    assert [(section.en, [chart.names for chart in found]) for section, found in page if found] == [
        ("Losses", [["train/loss"]]), ("Others", [["eval/en_wishes"], ["train/wishes"]]),
    ]  # fmt: skip
    assert [(section.en, name) for section, name in tables({"wishes", "captions_zh", "retrieval"})] == [
        ("Retrieval", "retrieval"), ("Captions", "captions_zh"), ("Others", "wishes"),
    ]  # fmt: skip


def test_titles_are_in_both_languages_and_occur_once():
    """The page finds a chart by its title."""
    for language in ("en", "zh"):
        found = [getattr(p, language) for p in CURVES]
        assert len(set(found)) == len(found)
    for each in [*panels.SECTIONS, *(p for section in panels.SECTIONS for p in section.panels)]:
        assert not re.search("[\u4e00-\u9fff]", each.en)
        assert re.search("[\u4e00-\u9fff]", each.zh) or re.fullmatch(r"\w+ loss", each.zh), each
        numbers = re.compile(r"\d+(?:\.\d+)?")
        assert sorted(numbers.findall(each.en)) == sorted(numbers.findall(each.zh)) or "16" in each.en, each
