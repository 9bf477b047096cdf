"""Writes the pages that are made of the code, and tables of numbers: `make reference`, or `python -m docs.generate`.

It stands here and not in the package, because only those who change the code need it. A test compares the pages with
what this gives.
"""

import argparse
import dataclasses
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from unittest.mock import patch

import yaml

from docs import tables
from vglm_train.__main__ import COMMANDS
from vglm_train.__main__ import main as vglm
from vglm_train.checkpoint.bundle import format as bundle_format
from vglm_train.checkpoint.convert.registry import FORMATS as WEIGHTS
from vglm_train.checkpoint.convert.registry import WRITTEN
from vglm_train.config.metric_meanings import ANSWERS_ZH, EVALUATION, PLACES, TRAINING, Metric
from vglm_train.config.metric_names import ANSWER_SCORES, MEANING
from vglm_train.config.run import Config
from vglm_train.config.schema import BUNDLE, FieldInfo, fields_of, without_none
from vglm_train.config.validation import NotEmpty
from vglm_train.data.__main__ import commands as data_commands
from vglm_train.data.tables.fields import KNOWN
from vglm_train.data.tables.readers import ENDINGS
from vglm_train.data.tables.readers import FORMATS as TABLES
from vglm_train.image.decode import FORMATS as PICTURES
from vglm_train.weights.identify import FORMATS as WHAT

DOCS = Path(__file__).resolve().parent
MADE = "<!-- made by `make reference` of the code; edit there -->"
WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}


class _Found(BaseException):
    """A command's parser, instead of parsing."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def pages() -> dict[Path, str]:
    """File -> what it must hold."""
    reference = DOCS / "en/reference"
    texts = {
        reference / "configuration.md": configuration(),
        reference / "commands.md": commands(),
        reference / "formats.md": formats(),
        reference / "metrics.md": metrics("en"),
        DOCS / "zh/reference/metrics.md": metrics("zh"),
    }
    return {**{path: f"{text.rstrip()}\n" for path, text in texts.items()}, **dict(tables.pages())}


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    """A Markdown table; bars within cells are written as such."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in line) + " |" for line in lines)


def configuration() -> str:
    """Every section with its keys."""
    parts = ["# Configuration keys", MADE]
    parts.append(
        "A key in bold must be given. `null` is the default where none is shown. `configs/schema.json` holds the same "
        "for editors; [Write a configuration](../howto/configuration.md) says how the file is used."
    )
    parts += [_section(path, section) for path, section in _sections(Config, "")]
    return "\n\n".join(parts)


def _sections(section: type, path: str) -> Iterator[tuple[str, type]]:
    if path:
        yield path, section
    for info in fields_of(section):
        kind, _ = without_none(info.kind)
        inner = get_args(kind)[0] if get_origin(kind) is tuple else kind
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            name = f"{path}.{info.name}" if path else info.name
            yield from _sections(inner, f"{name}.N" if inner is not kind else name)


def _section(path: str, section: type) -> str:
    rows = [[_name(info), _type(info), _default(info), info.text] for info in fields_of(section)]
    if path == "model":
        rows.insert(0, ["`bundle`", "text or null", "", BUNDLE])
    text = " ".join((section.__doc__ or "").split())
    return f"## {path}\n\n{text}\n\n" + table(("key", "takes", "default", "is"), iter(rows))


def _name(info: FieldInfo) -> str:
    return f"**`{info.name}`**" if info.required else f"`{info.name}`"


def _type(info: FieldInfo) -> str:
    kind, nullable = without_none(info.kind)
    limits = "".join(f" {limit}" for limit in info.limits if not isinstance(limit, NotEmpty))
    return _kind(kind) + limits + (" or null" if nullable else "")


def _kind(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return "section"
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is dict:
        return f"{_kind(inner[1])} for each of {_kind(inner[0])}"
    if origin is tuple:
        return f"list of {_kind(inner[0])}" if inner[-1] is Ellipsis else f"list of {len(inner)}: {_kind(inner[0])}"
    return WORDS[kind]


def _default(info: FieldInfo) -> str:
    value = info.default
    if info.required or value is None or dataclasses.is_dataclass(value):
        length = getattr(value, "samples_of", None)
        given = dataclasses.asdict(value) if length else {}
        return ", ".join(f"`{name}: {number}`" for name, number in given.items() if number is not None)
    if isinstance(value, tuple):
        value = [dataclasses.asdict(each) if dataclasses.is_dataclass(each) else each for each in value]
    return f"`{yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=999).splitlines()[0]}`"


def metrics(language: Literal["en", "zh"]) -> str:
    """Names and meanings, and below them what a person wrote about evaluation."""
    heads = {
        "en": ("Metric names", "The same in `metrics.jsonl` and W&B.", ("name", "is"), "Scores of answers", "In full"),
        "zh": ("指标名称", "`metrics.jsonl` 与 W&B 中相同。", ("名称", "含义"), "答案的分数", "全名"),
    }
    title, text, head, answers, whole = heads[language]
    scores = ANSWER_SCORES if language == "en" else ANSWERS_ZH
    parts = [f"# {title}", MADE, text]
    parts.append(table(head, ((_names(metric), getattr(metric, language)) for metric in (*TRAINING, *EVALUATION))))
    parts += [f"## {answers}", table(("{ANSWER}", head[1]), ((f"`{name}`", what) for name, what in scores.items()))]
    places = ((f"`{{{name}}}`", ", ".join(values)) for name, values in PLACES.items() if values != (".+",))
    parts.append(table(("{...}", head[1]), places))
    written = (DOCS / language / "reference/evaluation.txt").read_text("utf-8").rstrip("\n")
    listed = ((f"`{name}`", ", ".join(f"`{each}`" for each in expand(name))) for name in _of_languages())
    return "\n\n".join([*parts, written, f"## {whole}", table((head[0], whole), listed)]) + "\n"


def _names(metric: Metric) -> str:
    """As they are listed, and an example of the first one that has places."""
    examples = [expand(name) for name in metric.names.split() if "{" in name]
    example = f" (`{examples[0][0]}`)" if examples and examples[0] else ""
    return ", ".join(f"`{name}`" for name in metric.names.split()) + example


def _of_languages() -> Iterator[str]:
    """Names that every language has; whoever searches the pages for one in full finds it."""
    names = (name for metric in EVALUATION for name in metric.names.split())
    yield from (name for name in names if "{LANG}" in name)


def expand(name: str) -> list[str]:
    """Every metric that a name with places such as {LANG} means; none where a place may be anything."""
    parts = re.split(r"\{(\w+)\}", name)
    values = [PLACES[part] if number % 2 else (part,) for number, part in enumerate(parts)]
    return [] if (".+",) in values else ["".join(each) for each in itertools.product(*values)]


def commands() -> str:
    """Every command with its arguments, from its parser. AssertionError for an argument without a help text."""
    parts = ["# Commands", MADE]
    parts.append("`vglm NAME` is the same as `python -m vglm_train.NAME`. Each has `--help`.")
    for name, (_, what) in COMMANDS.items():
        if name == "data":
            parts += ["## vglm data", _sentence(f"{what}: the commands that follow")]
            parts += [_command(["data", each]) for each in data_commands()]
        else:
            parts.append(_command([name], what))
    return "\n\n".join(parts)


def _command(words: list[str], what: str = "") -> str:
    parser = _parser(words)
    text = what or (parser.description or "").partition("\n")[0]
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    parts = [f"## vglm {' '.join(words)}", _sentence(text)]
    parts += _arguments(parser)
    for group in below:
        helps = {action.dest: action.help or "" for action in group._choices_actions}
        for name, sub in group.choices.items():
            parts += [f"### vglm {' '.join(words)} {name}", helps.get(name, ""), *_arguments(sub)]
    return "\n\n".join(part for part in parts if part)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text[-1] in ".?" else ".")


def _parser(words: list[str]) -> argparse.ArgumentParser:
    """The parser that the command makes, caught when it is used."""

    def catch(parser: argparse.ArgumentParser, *_: object) -> None:
        raise _Found(parser)

    try:
        with patch.object(argparse.ArgumentParser, "parse_known_args", catch):
            vglm(words)
    except _Found as found:
        return found.parser
    raise AssertionError(f"vglm {' '.join(words)} parses nothing")


def _arguments(parser: argparse.ArgumentParser) -> list[str]:
    actions = [
        action
        for action in parser._actions
        if action.help != argparse.SUPPRESS
        and not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
    ]
    if not actions:
        return []
    return [table(("argument", "is"), ((_argument(action), _meaning(action)) for action in actions))]


def _argument(action: argparse.Action) -> str:
    name = action.metavar if isinstance(action.metavar, str) else action.dest
    if not action.option_strings:
        return f"`{name}`"
    value = "" if action.nargs == 0 else f" {name.upper() if action.metavar is None else name}"
    text = f"`{', '.join(action.option_strings)}{value}`"
    return f"**{text}**" if action.required else text


def _meaning(action: argparse.Action) -> str:
    assert action.help, f"{action.dest} says nothing"
    text = action.help.replace("%%", "%") % {"default": action.default, "prog": "vglm"}
    given = action.choices
    if isinstance(given, range):
        choices = f"{given[0]} to {given[-1]}"
    else:
        choices = ", ".join(f"`{choice}`" for choice in given or ())
    default = f"default {action.default}" if _is_told(action.default) and "default" not in text else ""
    return "; ".join(part for part in (text, choices, default) if part)


def _is_told(default: object) -> bool:
    return type(default) in (str, int, float) and default != argparse.SUPPRESS


def formats() -> str:
    """Files that are read and written."""
    endings = {name: [end for end, kind in ENDINGS.items() if kind == name] for name in TABLES}
    parts = ["# Formats", MADE, "## Tables"]
    parts.append("`format` of a source, `--format` of the commands. It is told from the name and the content.")
    rows = (
        [f"`{name}`", reader.holds, " ".join(endings[name]), ", ".join(f"`{each}`" for each in sorted(reader.options))]
        for name, reader in TABLES.items()
    )
    parts += [table(("format", "holds", "endings", "options"), rows), "## Columns"]
    parts.append("Names that are known. A name is compared in small letters, with _ between words.")
    parts.append(table(("what", "names"), ([f"`{what}`", ", ".join(names)] for what, names in KNOWN.items())))
    parts += ["## Pictures", table(("format", "endings"), ([name, " ".join(ends)] for name, ends in PICTURES.items()))]
    weights = (
        [f"`{name}`", what, "with `--config`" if WEIGHTS[name].part else "yes", "yes" if name in WRITTEN else "no"]
        for name, what in WHAT.items()
        if name != "bundle"
    )
    parts += ["## Weights", table(("format", "is", "import", "export"), weights), "## Bundles"]
    text = (bundle_format.__doc__ or "").partition("\n\n")[2]
    parts.append(f"A bundle is of version {bundle_format.VERSION}.\n\n```text\n{text.strip()}\n```")
    parts.append(f"Names of evaluation metrics have meanings of version {MEANING}, which result files note.")
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages; with `--check` only compare. Exit status: 1 where a page was stale."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 where a page is stale")
    check = parser.parse_args(argv).check
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text("utf-8") != text]
    for path in stale:
        print(f"{'stale' if check else 'written'}: {path.relative_to(DOCS.parent)}")
        if not check:
            path.write_text(pages()[path], "utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
