"""Rows somewhere within one JSON object: which of its lists they are, or the step that a person takes to get them."""

import logging
import re
from collections import deque
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from vglm_train.data.tables.json_stream import NotJson, Window

SPLITS = frozenset(
    ("train", "training", "val", "valid", "validation", "dev", "test", "testing", "trainval", "restval", "minival")
)
DEEPEST = 3  # objects within objects that are looked into
NAMED = 6  # lists, and keys of their rows, that are named
Keys = tuple[str, ...]

logger = logging.getLogger(__name__)


class Part(NamedTuple):
    """A list of objects, or an object of objects, by the keys that lead to it."""

    path: Keys
    fields: Keys  # keys of its first element
    keyed: bool = False  # it is an object of objects

    @property
    def python(self) -> str:
        """How Python calls its rows, where the whole file is d."""
        inside = "d" + "".join(f"[{_quoted(key)}]" for key in self.path)
        return f"list({inside}.values())" if self.keyed else inside


def outline(window: Window, own: frozenset[str], path: Keys = ()) -> tuple[Keys, list[Part]]:
    """The keys of the object that begins here, which is read to its end, and the parts in it. `own`: keys of which a
    row has one: a row is not looked into."""
    keys: dict[str, None] = {}
    parts: list[Part] = []
    objects: list[Keys] = []
    for _, key in window.object_keys():
        keys[key], start = None, window.peek()
        if start == "[":
            elements = window.elements()
            first = next(elements, (0, None))[1]
            parts += [Part((*path, key), tuple(first))] if isinstance(first, dict) else []
            deque(elements, maxlen=0)
        elif start == "{" and len(path) < DEEPEST:
            inner, below = outline(window, own, (*path, key))
            objects = objects or [inner]
            parts += [] if own & set(inner) else below
    return tuple(keys), [*parts, *(Part(path, fields, True) for fields in objects if path and own & set(fields))]


def rows_among(file: Path, parts: Sequence[Part], own: frozenset[str]) -> list[Part]:
    """The one part that holds rows, or those that are the splits of one data set; none where there is no list at all.
    NotJson says what to do where that cannot be told."""
    rows = [part for part in parts if own & set(part.fields)]
    lists = rows or [part for part in parts if not part.keyed]
    if len(lists) > 1 and not (rows and _are_splits(rows)):
        raise NotJson(_advice(file, lists), 0)
    others = tuple(".".join(part.path) for part in parts if part not in lists and not part.keyed)
    if lists and others:
        _report(file, tuple(".".join(part.path) for part in lists), others)
    return list(lists)


def _are_splits(rows: Sequence[Part]) -> bool:
    """Lists side by side, whose names say which split each is."""
    names = [set(re.split(r"[-_. ]", part.path[-1].lower())) & SPLITS for part in rows]
    return all(names) and len({part.path[:-1] for part in rows}) == 1 and not any(part.keyed for part in rows)


def _advice(file: Path, parts: Sequence[Part]) -> str:
    """Where rows may be, and the step that makes a file of them."""
    found = [f"{'.'.join(part.path)} (of {', '.join(part.fields[:NAMED])})" for part in parts[:NAMED]]
    same = all(set(part.fields) == set(parts[0].fields) for part in parts)
    sum_of = _all_rows(parts) if same else parts[0].python
    which = "all of them together" if same else f"{'.'.join(parts[0].path)} alone, or whichever holds yours"
    return (
        f"objects stand under several keys: {'; '.join(found)}{' and others' * (len(parts) > NAMED)}. Write those that "
        f"are rows to a file of their own; {which}: {python_step(file, sum_of)}"
    )


def _all_rows(parts: Sequence[Part]) -> str:
    """How Python calls the rows of all parts."""
    parents = {part.path[:-1] for part in parts}
    if len(parts) <= NAMED or len(parents) > 1 or any(part.keyed for part in parts):
        return " + ".join(part.python for part in parts)
    return f"[row for rows in {Part(parents.pop(), ()).python}.values() if isinstance(rows, list) for row in rows]"


def python_step(file: Path, rows: str) -> str:
    """The command that writes `rows`, a Python expression over the file's content d, to a file beside it."""
    out = file.with_name(f"{file.stem}_rows.json")
    return (
        f"python -c \"import json; d = json.load(open({_quoted(file.as_posix())}, encoding='utf-8')); "
        f"json.dump({rows}, open({_quoted(out.as_posix())}, 'w', encoding='utf-8'))\""
    )


def _quoted(text: str) -> str:
    """A text as Python has it between single quotes, without a sign that a shell changes between double ones."""
    return "'" + re.sub(r"[\\'\"$`!%\x00-\x1f]", lambda sign: f"\\x{ord(sign[0]):02x}", text) + "'"


@cache  # once, however often a file is opened
def _report(file: Path, read: Keys, others: Keys) -> None:
    logger.warning("%s: rows are read from %s; not read: %s", file, ", ".join(read), ", ".join(others))
