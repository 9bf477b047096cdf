"""Where the rows of a JSON file are: a list, one object a line, or somewhere within one object."""

import json
import re
from collections import deque
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vglm_train.data.tables.encoding import Encoding
from vglm_train.data.tables.fields import KNOWN
from vglm_train.data.tables.image_paths import ENDINGS
from vglm_train.data.tables.json_outline import SPLITS, outline, python_step, rows_among
from vglm_train.data.tables.json_stream import NotJson, Window

Kind = Literal["list", "lines", "objects", "member", "splits", "keyed", "coco", "karpathy", "questions", "annotations"]
LISTS = ("annotations", "data", "rows", "samples")  # keys that hold the rows where the file is one object
TURNS = frozenset(KNOWN["turns"])
OWN = frozenset((*KNOWN["image"], *KNOWN["question"], "image_id", "imageId")) - {"images"} | TURNS  # keys of a row
_DECODER = json.JSONDecoder(strict=False)


class JsonShape(NamedTuple):
    """`list`: of objects; `lines`: an object a line; `objects`: one behind the other; `member`: a list under `key`;
    `splits`: lists under their names; `keyed`: rows under their ids; the others are layouts of that name."""

    kind: Kind
    key: str = ""
    inside: tuple[str, ...] = ()  # keys that lead to the object that all this is of
    names: tuple[str, ...] = ()  # of `splits`: the lists; none: all of objects


def find_shape(path: Path, encoding: Encoding, head: str, lines_named: bool) -> JsonShape:
    """The shape of a JSON file that begins with the text `head`. What is in it decides; `lines_named`, whether its
    name says an object a line, only where that is broken. NotJson where it cannot be told."""
    first = head.lstrip()[:1]
    lines = [line for line in head.split("\n" if "\n" in head else "\r") if line.strip()]
    if re.match(r"\[\s*\[\s*\{", head.lstrip()):
        raise NotJson(f"a list of lists; put the rows into one: {python_step(path, 'sum(d, [])')}", 0)
    whole = path.stat().st_size <= encoding.mark + encoding.size(head)
    behind = _behind_first(head.lstrip(), whole)
    if first == "[" and (head.lstrip()[1:].lstrip()[:1] in ("{", "]", "") or not any(map(_is_object, lines[1:]))):
        return JsonShape("list")
    if first == "{" and not (len(lines) > 1 and _is_object(lines[0])) and (behind is not None or not lines_named):
        if behind is not None and behind.lstrip(", \t\r\n")[:1] == "{":
            return JsonShape("objects")
        with open(path, "rb") as file:
            shape = _walk(Window(file, encoding))
        return shape or _within(path, encoding)
    if first in ("[", "{") or any(map(_is_object, lines[1:])):
        return JsonShape("lines")
    raise NotJson(f"it begins with {first!r}" if first else "it is empty", 0)


def without_comma(line: str) -> str:
    """A line of JSONL that was cut out of a list."""
    return line.rstrip().removesuffix(",").rstrip()


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(without_comma(line), strict=False), dict)
    except (ValueError, RecursionError):
        return False


def _behind_first(text: str, whole: bool) -> str | None:
    """What follows the first value; nothing where it goes on behind `text`; None where it is broken."""
    try:
        return text[_DECODER.raw_decode(text)[1] :]
    except json.JSONDecodeError as error:
        cut = error.msg.startswith("Unterminated") or error.pos >= len(text) - 16
        return "" if cut and not whole else None
    except (ValueError, RecursionError):
        return None


def _within(path: Path, encoding: Encoding) -> JsonShape:
    """The shape of an object that holds rows, if any, deeper within it or in one of several lists."""
    with open(path, "rb") as file:
        _, parts = outline(Window(file, encoding), OWN)
    rows = rows_among(path, parts, OWN)
    if not rows:
        return JsonShape("objects")
    *inside, key = rows[0].path
    if len(rows) > 1:
        return JsonShape("splits", "", tuple(inside), tuple(part.path[-1] for part in rows))
    return JsonShape("keyed", "", rows[0].path) if rows[0].keyed else JsonShape("member", key, tuple(inside))


def _walk(window: Window) -> JsonShape | None:
    """The shape of one object, by its keys; as little of it is read as tells. None where they do not tell."""
    lists: dict[str, frozenset[str]] = {}  # keys of the first element of each list of objects
    for _, key in window.object_keys():
        start = window.peek()
        if key in TURNS or (key in OWN and start != "["):
            return JsonShape("objects")
        if start == "[":
            elements = window.elements()
            first = next(elements, (0, None))[1]
            fields = frozenset(first) if isinstance(first, dict) else frozenset()
            shape = _of_list(key, fields, first)
            if shape is not None:
                return shape
            if fields or key in LISTS:
                lists[key] = fields
            deque(elements, maxlen=0)
        elif not lists and _is_keyed(key, window.value()[1]):
            return JsonShape("keyed")
    return _of_lists(lists)


def _of_list(key: str, fields: frozenset[str], first: Any) -> JsonShape | None:
    """What a list under `key`, whose first element has these fields, says of the whole file by itself."""
    if key in SPLITS and (fields or first is None):
        return JsonShape("splits")
    if key == "images" and "sentences" in fields:
        return JsonShape("karpathy", key)
    if key == "images" and fields & {"id", "file_name"}:
        return JsonShape("coco")
    if key == "questions" and {"question", "question_id"} <= fields and not fields & {"answer", "answers"}:
        return JsonShape("questions", key)
    if key == "annotations" and "question_id" in fields and "question" not in fields:
        return JsonShape("annotations", key)
    return JsonShape("member", key) if key in LISTS[1:] else None


def _of_lists(lists: dict[str, frozenset[str]]) -> JsonShape | None:
    """The shape of an object that was read to its end, by its lists of objects."""
    if "annotations" in lists:
        return JsonShape("coco") if "images" in lists else JsonShape("member", "annotations")
    return JsonShape("member", next(iter(lists))) if len(lists) == 1 else None


def _is_keyed(key: str, value: Any) -> bool:
    """Whether an object has its rows under their ids, or captions under the names of pictures."""
    return bool(row_of(key, value)) and (not isinstance(value, dict) or bool(OWN & value.keys()))


def row_of(key: str, value: Any) -> dict[str, Any] | None:
    """The row that stands under a key: an object with the key as its id, or captions of the picture of that name."""
    if isinstance(value, dict):
        return {"id": key} | value
    texts = value if isinstance(value, list) else [value]
    if key.lower().endswith(ENDINGS) and all(isinstance(text, str) for text in texts):
        return {"image": key, "caption": value}
    return None
