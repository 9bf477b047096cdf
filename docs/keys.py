"""The page of configuration keys, made of the sections and their annotations."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import yaml

from docs.markdown import MADE, table
from docs.words import Words
from vglm_train.config.run import Config
from vglm_train.config.schema import BUNDLE, FieldInfo, fields_of, without_none
from vglm_train.config.validation import NotEmpty

TYPES = {int: "whole number", float: "number", bool: "true or false", str: "text"}


def configuration(words: Words) -> str:
    """Every section with its keys."""
    parts = [f"# {words('Configuration keys')}", MADE]
    parts.append(
        words(
            "A key in bold must be given. `null` is the default where none is shown. `configs/schema.json` holds the "
            "same for editors; [Write a configuration](../howto/configuration.md) says how the file is used."
        )
    )
    parts += [_section(path, section, words) for path, section in _sections(Config, "")]
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


def _section(path: str, section: type, words: Words) -> str:
    rows = [
        [_name(info), _type(info, words), _default(info), words(info.text, f"{path}.{info.name}")]
        for info in fields_of(section)
    ]
    if path == "model":
        rows.insert(0, ["`bundle`", words("{} or null").format(words("text")), "", words(BUNDLE)])
    text = " ".join((section.__doc__ or "").split())
    head = [words(each) for each in ("key", "takes", "default", "is")]
    return f"## {path}\n\n{words(text)}\n\n" + table(head, iter(rows))


def _name(info: FieldInfo) -> str:
    return f"**`{info.name}`**" if info.required else f"`{info.name}`"


def _type(info: FieldInfo, words: Words) -> str:
    kind, nullable = without_none(info.kind)
    text = _kind(kind, words)
    for limit in info.limits:
        if not isinstance(limit, NotEmpty):
            text = words("{} {}").format(text, _limit(str(limit), words))
    return words("{} or null").format(text) if nullable else text


def _limit(limit: str, words: Words) -> str:
    """`at least 0 and below 1`: the numbers stand behind words."""
    parts = (part.rpartition(" ") for part in limit.split(" and "))
    return words(" and ").join(f"{words(word)} {number}" for word, _, number in parts)


def _kind(kind: Any, words: Words) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return words("section")
    if origin is Literal:
        return words(", ").join(f"`{value}`" for value in inner)
    if origin is dict:
        return words("{} for each of {}").format(_kind(inner[1], words), _kind(inner[0], words))
    if origin is tuple and inner[-1] is Ellipsis:
        return words("list of {}").format(_kind(inner[0], words))
    if origin is tuple:
        return words("list of {}: {}").format(len(inner), _kind(inner[0], words))
    return words(TYPES[kind])


def _default(info: FieldInfo) -> str:
    value = info.default
    if info.required or value is None or dataclasses.is_dataclass(value):
        length = getattr(value, "samples_of", None)
        given = dataclasses.asdict(value) if length else {}
        return ", ".join(f"`{name}: {number}`" for name, number in given.items() if number is not None)
    if isinstance(value, tuple):
        value = [dataclasses.asdict(each) if dataclasses.is_dataclass(each) else each for each in value]
    return f"`{yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=999).splitlines()[0]}`"
