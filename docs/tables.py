"""Tables of numbers in the READMEs and pages, made of the files that `vglm benchmark` and the demo write.

A page holds a table between `<!-- numbers: NAME -->` and `<!-- end of numbers -->`; `tables.yaml` says what is in it. A
cell is a text with places such as {ms|.1f}: a number of the row's measurement, and how it is written. {NAME|ms|.1f},
{CASE|NAME|ms|.1f} and {FILE|CASE|NAME|ms|.1f} take it from another row or file.
"""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import yaml

from benchmarks.result_file import MEASURED, Results

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
PLACE = re.compile(r"\{([^{}]+)\}")
BLOCK = re.compile(r"(<!-- numbers: (\w+) -->\n).*?(<!-- end of numbers -->)", re.DOTALL)
Language = Literal["en", "zh"]
STOP = {"en": ".", "zh": "。"}


@dataclass(frozen=True, slots=True)
class Demo:
    """What `examples.demo.run` writes as results.json."""

    content: dict[str, Any]

    def number(self, path: str) -> float:
        """By keys with > between them; a sum of what has names; a share in per cent of [right, of so many, ...]."""
        value: Any = self.content
        for key in path.split(">"):
            value = value[key]
        if isinstance(value, dict):
            return float(sum(value.values()))
        return 100 * value[0] / value[1] if isinstance(value, list) else float(value)


@cache
def definitions() -> dict[str, Any]:
    """tables.yaml."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docs/tables.yaml").read_text("utf-8"))
    return loaded


@cache
def read(alias: str) -> Results | Demo:
    """A file that tables.yaml names."""
    path = RESULTS / definitions()["files"][alias]["file"]
    return Demo(json.loads(path.read_text("utf-8"))) if alias == "demo" else Results.read(path)


def fill(template: str, file: str, of: str = "") -> str:
    """The text with its numbers. of: `CASE|NAME`, or of the demo what stands for *."""

    def number(found: re.Match[str]) -> str:
        *where, key, form = found[1].split("|")
        alias = where.pop(0) if where and where[0] in definitions()["files"] else file
        results = read(alias)
        if isinstance(results, Demo):
            return format(results.number(key.replace("*", of)), form)
        case, _, name = of.partition("|")
        case, name = [*[case, name][: 2 - len(where)], *where]
        return format(results.row(case, name).get(key), form).replace("%", " %")

    return PLACE.sub(number, template)


def said(value: str | Mapping[str, str], language: Language) -> str:
    """A text that is the same in both languages, or has one for each."""
    return value if isinstance(value, str) else value[language]


def files_of(table: Mapping[str, Any]) -> list[str]:
    """Every file that a table takes numbers from, in the order of its rows."""
    found = []
    for row in table["rows"]:
        file, used = row.get("file", table["file"]), False
        for cell in [text for each in row.get("cells", table.get("cells")) for text in _texts(each)]:
            for place in PLACE.findall(cell):
                first = place.split("|")[0]
                found.append(first if first in definitions()["files"] else file)
                used = True
        assert used, f"{said(row['name'], 'en')}: no number"
    return list(dict.fromkeys(found))


def _texts(cell: str | Mapping[str, str]) -> list[str]:
    return [cell] if isinstance(cell, str) else list(cell.values())


def source(alias: str, language: Language, brief: bool = False) -> str:
    """Where and when a file was measured, in a sentence; brief: without the command."""
    entry, results = definitions()["files"][alias], read(alias)
    file = f"`benchmarks/results/{entry['file']}`"
    if isinstance(results, Demo) or results.source != MEASURED:
        return f"{file}{': ' if language == 'en' else '：'}{entry[language]}{STOP[language]}"
    machine, day = results.machine, results.date[:10]
    versions = ", ".join(
        f"{name} {machine.versions[name]}" for name in ("torch", "triton") if machine.versions.get(name)
    )
    rates = f"{machine.product_tflops:.0f} TFLOP/s", f"{machine.copy_tb_s:.1f} TB/s"
    commit, command = (results.commit or "")[:8], "" if brief else f" `{results.command}`."
    if language == "en":
        return (
            f"{file}: one {machine.card}, {day}, commit {commit}, {versions}; {rates[0]} in bf16 products of 8192 "
            f"cubed, {rates[1]} in copies.{command}"
        )
    return (
        f"{file}：一块 {machine.card}，{day}，提交 {commit}，{versions}；8192 阶 bf16 矩阵乘 {rates[0]}，"
        f"复制 {rates[1]}。{command.strip().rstrip('.')}"
    )


def render(name: str, language: Language) -> str:
    """The table and where its numbers come from, as Markdown."""
    table = definitions()["tables"][name]
    if "made" in table:
        module, function = table["made"].split(".")
        made = markdown(list(getattr(import_module(f"docs.{module}"), function)(language)))
        told = " ".join(source(alias, language, brief=True) for alias in table.get("files", ()))
        return f"{made}\n\n{_wrapped(told, language)}" if told else made
    head = [said(each, language) for each in table["head"]]
    rows = []
    for row in table["rows"]:
        cells = [said(each, language) for each in row.get("cells", table.get("cells"))]
        values = [fill(cell, row.get("file", table["file"]), row.get("of", "")) for cell in cells]
        rows.append([said(row["name"], language), *values])
        assert len(rows[-1]) == len(head), f"{name}, {rows[-1][0]}: {len(rows[-1])} cells for {len(head)} heads"
    parts = []
    if "note" in table:
        parts.append(fill(said(table["note"], language), table["file"]))
    sources = table.get("sources", "whole")
    if sources != "none":
        parts.append(" ".join(source(alias, language, sources == "brief") for alias in files_of(table)))
    return "\n\n".join([markdown([head, *rows]), *(_wrapped(part, language) for part in parts)])


def _wrapped(text: str, language: Language) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) if language == "en" else text


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """The first line is the head."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])


def with_tables(text: str, language: Language) -> str:
    """A page with its tables made anew."""
    return BLOCK.sub(lambda found: f"{found[1]}{render(found[2], language)}\n{found[3]}", text)


def pages() -> Iterator[tuple[Path, str]]:
    """Every page that has such tables, and what it must hold."""
    files = [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for path in files:
        language: Language = "zh" if path.name == "README.zh.md" or "zh" in path.relative_to(ROOT).parts else "en"
        text = path.read_text("utf-8")
        if BLOCK.search(text):
            yield path, with_tables(text, language)
