"""The pages stand in both languages, and short ones stay short."""

import re
import tomllib
from pathlib import Path

import pytest

from vglm_train.batch import CAUSES

ROOT = Path(__file__).resolve().parents[2]
FENCED = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


def pages(language: str) -> set[str]:
    folder = ROOT / "docs" / language
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.md")}


def test_every_page_stands_in_both_languages():
    assert pages("en") == pages("zh")


def headings(language: str, page: str) -> list[int]:
    """The level of each heading, in order."""
    text = FENCED.sub("", (ROOT / "docs" / language / page).read_text("utf-8"))
    return [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]


@pytest.mark.parametrize("page", sorted(pages("en")))
def test_a_page_has_the_same_sections_in_both_languages(page):
    assert headings("en", page) == headings("zh", page)


def links(language: str, page: str) -> list[str]:
    """Where its links go; of headings, whose names differ, that they are linked."""
    text = FENCED.sub("", (ROOT / "docs" / language / page).read_text("utf-8"))
    return sorted(re.sub("#.*", "#", link) for link in re.findall(r"\]\(([^)]+)\)", text))


@pytest.mark.parametrize("page", sorted(pages("en")))
def test_a_page_has_the_same_links_in_both_languages(page):
    assert links("en", page) == links("zh", page)


def test_the_first_pages_list_the_others_in_the_same_order():
    def listed(language: str) -> list[str]:
        text = (ROOT / "docs" / language / "index.md").read_text("utf-8")
        return [line for block in re.findall(r"```{toctree}\n(.*?)```", text, re.DOTALL) for line in block.split()]

    def names(language: str) -> list[str]:
        return [line for line in listed(language) if f"{line}.md" in pages(language)]

    assert names("en") == names("zh")


@pytest.mark.parametrize(("name", "most"), [("README.md", 1500), ("ARCHITECTURE.md", 2000)])
def test_words(name, most):
    assert len((ROOT / name).read_text().split()) <= most


def test_chinese_characters():
    assert len(re.findall(r"[\u4e00-\u9fff]", (ROOT / "README.zh.md").read_text())) <= 2800


def test_every_dependency_has_its_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    declared = [*project["dependencies"], *(each for extra in extras for each in extra)]
    section = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## Dependencies")[1]
    reasons = {name for row in re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE) for name in row.split(", ")}
    assert {re.split(r"[\[<>=]", each)[0] for each in declared} - reasons == set()


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub names them."""
    titles = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def lost(paper: Path) -> list[str]:
    """Its links and pictures that lead nowhere. A link of plain HTML names the built page."""
    text = FENCED.sub("", paper.read_text("utf-8"))
    links = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    dead = []
    for link in (link for link in links if "://" not in link):
        file, _, anchor = link.partition("#")
        page = paper.parent / re.sub(r"\.html$", ".md", file) if file else paper
        if not page.exists() or (anchor and anchor not in anchors(page)):
            dead.append(link)
    return dead


PAPERS = ["README.md", "README.zh.md", "ARCHITECTURE.md", "CONTRIBUTING.md"]
PAGES = [f"docs/{language}/{page}" for language in ("en", "zh") for page in sorted(pages(language))]


@pytest.mark.parametrize("name", [*PAPERS, *PAGES])
def test_links_lead_somewhere(name):
    """Sphinx checks the pages once more as it builds them."""
    assert lost(ROOT / name) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    (tmp_path / "page.md").write_text("## A heading\n")
    paper = tmp_path / "paper.md"
    paper.write_text(
        "[a](page.md) [b](page.md#a-heading) [c](https://x.org) [d](page.md#gone) ![e](gone.png)\n"
        '<img src="gone.gif"> <a href="page.html">f</a> [g](#gone)\n```\n[h](in-a-block.md)\n```\n'
    )
    assert lost(paper) == ["page.md#gone", "gone.png", "#gone", "gone.gif"]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_cause_of_damage_is_explained(language):
    text = (ROOT / "docs" / language / "howto/damaged.md").read_text("utf-8")
    assert {cause for cause in CAUSES if f"| `{cause}` |" not in text} == set()


def test_both_readmes_show_the_same_commands():
    """Comments and questions are translated, commands are not."""

    def commands(name: str) -> list[str]:
        text = (ROOT / name).read_text()
        lines = re.findall(r"^(?:vglm|make) .*", text, re.MULTILINE)
        return [re.sub(r'"[^"]*"', '""', line.split("  #")[0]).strip() for line in lines]

    assert commands("README.md") == commands("README.zh.md")
