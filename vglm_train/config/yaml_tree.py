"""A YAML file with overrides laid over it, as a tree whose every value knows where it was written."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from vglm_train.errors import UserError

FULL_WIDTH = "：，｛｝［］（）“”‘’"
DEEPEST = 20  # levels; also ends an alias that contains itself
PREFIX = "tag:yaml.org,2002:"
TAGS = {PREFIX + name for name in ("null", "bool", "int", "float", "str", "timestamp", "seq", "map", "merge", "value")}
RUN_NEEDS = "a run needs at least a section 'run' with its 'name'"
OVERRIDES = 1_000_000_000  # order of the first override: after every line


@dataclass(slots=True)
class YamlNode:
    """One value of the document and where it stands."""

    value: "str | int | float | bool | list[YamlNode] | dict[str, YamlNode] | None"
    where: str  # "run.yaml:12", or "override run.seed=7"
    order: int  # line number; overrides count as later than any line
    plain: bool = False  # text written without quotes: YAML takes 1e-4 for text

    def describe(self) -> str:
        """The value in words, for "found ..."."""
        match self.value:
            case None:
                return "nothing (null)"
            case bool():
                return f"{str(self.value).lower()} (yes or no)"
            case int() | float():
                return f"the number {self.value}"
            case str():
                return f"the text {self.value!r}"
            case list():
                return f"a list of {len(self.value)}"
        return "a mapping"

    def step(self, part: str) -> "YamlNode | None":
        """The entry of a mapping or list under `part`; None where there is none."""
        if isinstance(self.value, dict):
            return self.value.get(part)
        if isinstance(self.value, list) and part.isdecimal() and int(part) < len(self.value):
            return self.value[int(part)]
        return None


def read(path: Path, overrides: Sequence[str] = (), needs: str = RUN_NEEDS) -> YamlNode:
    """The document at `path` with `section.key=value` overrides set in it, later ones last.

    `needs`: what such a file holds at least, for the message about one that holds nothing.
    Raises UserError, naming file and line (or the override), for what is not a YAML mapping with single keys.
    """
    text = _text(path)
    _refuse_tabs(text, path)
    node = _compose(text, str(path))
    if node is None:
        raise UserError(f"{path}: the file is empty; {needs}")
    root = _item(node, str(path), 0, "")
    if not isinstance(root.value, dict):
        raise UserError(f"{root.where}: expected keys with values, found {root.describe()}; {needs}")
    for index, override in enumerate(overrides):
        _override(root, override, OVERRIDES + index)
    return root


def _text(path: Path) -> str:
    if path.is_dir():
        raise UserError(f"{path} is a folder; give one YAML file. {_listing(path)}")
    if not path.exists():
        raise UserError(f"{path}: no such file. {_near(path)}")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _near(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"Its folder {folder} is not there either (looked from {Path.cwd()})"
    near = difflib.get_close_matches(path.name, [p.name for p in _yamls(folder)], 1, 0.5)
    return f"Did you mean {folder / near[0]}?" if near else _listing(folder)


def _listing(folder: Path) -> str:
    names = ", ".join(p.name for p in _yamls(folder)[:20])
    return f"YAML files in {folder.resolve()}: {names or 'none'}"


def _yamls(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix in (".yaml", ".yml"))


def _refuse_tabs(text: str, path: Path) -> None:
    for number, line in enumerate(text.splitlines(), 1):
        indent = line[: len(line) - len(line.lstrip())]
        if "\t" in indent:
            raise UserError(f"{path}:{number}: a tab in the indentation; YAML wants spaces (two a level)")


def _compose(text: str, origin: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line if mark else 0
        said = _parser_says(error, text, line)
        if not origin.startswith("override "):
            raise UserError(f"{origin}:{line + 1}: not valid YAML: {said}") from None
        cut = any(text.count(left) != text.count(right) for left, right in ("{}", "[]"))
        hint = "; the shell ends a word at a space: put all of it in quotes, 'key={a: 1}'" if cut else ""
        raise UserError(f"{origin}: not valid YAML: {said}{hint}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{origin}: not valid YAML: {str(error).splitlines()[0]}") from None


def _parser_says(error: yaml.MarkedYAMLError, text: str, line: int) -> str:
    """The parser's words and the lines they are about, in one line.

    `line` (from 0) is where the parser gave up. The mistake is often in the line above, or where what it was reading
    began, so these are shown too. Full-width signs are named, because the parser takes them for letters.
    """
    said, numbers = str(error.problem or error.context), {line - 1, line}
    if error.context_mark is not None:
        numbers.add(error.context_mark.line)
        said += f", {error.context} that begins in line {error.context_mark.line + 1}"
    shown = [(number, content) for number, content in enumerate(text.splitlines()) if number in numbers]
    said += "".join(f"; line {number + 1} reads `{content.strip()}`" for number, content in shown if content.strip())
    if wide := next((sign for _, content in shown for sign in content if sign in FULL_WIDTH), None):
        said += f"; {wide} is a full-width sign, YAML needs the plain one"
    return said


def _item(node: yaml.Node, origin: str, order: int, path: str) -> YamlNode:
    """`order` 0: count by the lines of `origin`, which is a file; otherwise `origin` is an override."""
    where, rank = (origin, order) if order else (f"{origin}:{node.start_mark.line + 1}", node.start_mark.line + 1)
    if path.count(".") > DEEPEST:
        raise UserError(f"{where}: nested too deeply")
    if node.tag not in TAGS:
        raise UserError(f"{where}: {path}: the YAML tag {node.tag} has no meaning here; remove it")
    if isinstance(node, yaml.ScalarNode):
        return YamlNode(_scalar(node), where, rank, plain=node.style is None)
    if isinstance(node, yaml.SequenceNode):
        return YamlNode([_item(n, origin, order, f"{path}.{i}") for i, n in enumerate(node.value)], where, rank)
    entries: dict[str, YamlNode] = {}
    for key, value in node.value:
        at = origin if order else f"{origin}:{key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{at}: {path or 'the file'}: a key must be a name")
        name = f"{path}.{key.value}" if path else key.value
        if key.value in entries:
            raise UserError(f"{at}: {name}: given twice, first at {entries[key.value].where}; keep one")
        entries[key.value] = _item(value, origin, order, name)
        entries[key.value].where = at  # the line of the key, where a person looks
    return YamlNode(entries, where, rank)


def _scalar(node: yaml.ScalarNode) -> str | int | float | bool | None:
    """YAML 1.1 without its surprises: 010 is not 8 and 1:30 is not 90, they stay text."""
    text: str = node.value
    match node.tag.removeprefix(PREFIX):
        case "null":
            return None
        case "bool":
            return yaml.SafeLoader.bool_values[text.lower()]
        case "int" if re.fullmatch(r"[-+]?(0|[1-9][0-9_]{0,30})", text):
            return int(text.replace("_", ""))
        case "float" if re.fullmatch(r"[-+0-9._eE]*[0-9][-+0-9._eE]*", text):
            return float(text.replace("_", ""))
    return text


def _override(root: YamlNode, override: str, order: int) -> None:
    where = f"override {override}"
    name, sign, text = override.partition("=")
    parts = name.strip().split(".")
    if not sign or not all(parts):
        raise UserError(f"{where}: write it as section.key=value, for example optim.lr=1e-4")
    node = _compose(text, where)
    new = YamlNode(None, where, order) if node is None else _item(node, where, order, name)
    item = root
    for depth, part in enumerate(parts[:-1]):
        below = item.step(part)
        if below is None or below.value is None:
            below = YamlNode([] if parts[depth + 1].isdecimal() else {}, where, order)
            _set(item, part, below, where, ".".join(parts[:depth]))
        item = below
    _set(item, parts[-1], new, where, ".".join(parts[:-1]))


def _set(item: YamlNode, part: str, new: YamlNode, where: str, path: str) -> None:
    if isinstance(item.value, dict):
        item.value[part] = new
        return
    if not isinstance(item.value, list):
        raise UserError(f"{where}: {path}: has no keys below it; it is {item.describe()} at {item.where}")
    size = len(item.value)
    if not part.isdecimal() or int(part) > size:
        there = f"it has entries 0 to {size - 1}" if size else "it is empty"
        raise UserError(f"{where}: {path}: no entry {part!r}; {there}, and {size} adds one")
    item.value[int(part) : int(part) + 1] = [new]
