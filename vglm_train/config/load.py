"""YAML and `section.key=value` overrides to a Config, and back. Needs the standard library and PyYAML only."""

import dataclasses
import difflib
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml

from vglm_train.config.encoder import fill_encoder
from vglm_train.config.inherit import inherit
from vglm_train.config.presets import point_into_presets
from vglm_train.config.run import Config
from vglm_train.config.validation import FieldError
from vglm_train.config.yaml_tree import YamlNode, read
from vglm_train.errors import UserError

# what other programs call our dtypes
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32"}
WANTED = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def load(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """The run described by the YAML file at `path`, with overrides such as "optim.lr=1e-4" applied in order.

    Raises UserError that names file and line (or the override), the key, and the reason: unknown or repeated keys,
    wrong types, values out of range, combinations within a section. Rules across sections: config.check. For
    `model.bundle` see config.inherit, for `model.vision.family: auto` config.encoder.
    """
    root = inherit(read(Path(path), overrides))
    point_into_presets(root)
    fill_encoder(root)
    config: Config = _section(Config, root, "")
    return config


def load_section(kind: type, path: Path) -> Any:
    """A section of class `kind`, which is all that a YAML file holds. UserError as `load`."""
    return _section(kind, read(path), "")


def dump(config: Config) -> str:
    """The resolved run as YAML text; `load` of it gives an equal Config."""
    return yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True, width=120)


def show(value: Any) -> str:
    """A value of a configuration as YAML has it, in one line; of a section what is not as by default."""
    text = yaml.safe_dump(_given(value), default_flow_style=True, allow_unicode=True, sort_keys=False, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


@contextmanager
def errors_with_location(path: Path | str, overrides: Sequence[str] = ()) -> Iterator[None]:
    """Within it, a FieldError with whole field names becomes a UserError that names file and line as well."""
    try:
        yield
    except FieldError as error:
        _relocate(error, read(Path(path), overrides), "")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return dict(value)
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def _given(value: Any) -> Any:
    """`_plain` without what is as by default."""
    if dataclasses.is_dataclass(value):
        pairs = [(f, getattr(value, f.name)) for f in dataclasses.fields(value)]
        return {f.name: _given(entry) for f, entry in pairs if entry != _default(f)}
    return [_given(entry) for entry in value] if isinstance(value, tuple) else _plain(value)


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _build(kind: Any, item: YamlNode, path: str) -> Any:
    """The value of `item` as `kind`: a section, a list, one of some values, or a plain value; None if allowed."""
    if dataclasses.is_dataclass(kind):
        return _section(kind, item, path)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if item.value is None:
            return None
        (kind,) = [k for k in inner if k is not NoneType]
        return _build(kind, item, path)
    if origin is tuple:
        return _list(inner, item, path)
    if origin is dict:
        return _mapping(inner, item, path)
    if origin is Literal:
        return _choice(inner, item, path)
    return _value(kind, item, path)


def _section(kind: Any, item: YamlNode, path: str) -> Any:
    if not isinstance(item.value, dict):
        pair = _split_pair(item.value, _names(kind)) if isinstance(item.value, str) else None
        keys = f"{', '.join(_names(kind)[:3])}" + (f", for instance `{pair}`" if pair else "")
        _fail(item, path, f"expected a mapping with keys such as {keys}; found {item.describe()}")
    hints = get_type_hints(kind)
    for key, entry in item.value.items():
        if key not in hints:
            _fail(entry, _join(path, key), _unknown(key, kind, path))
    for field in dataclasses.fields(kind):
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and field.name not in item.value:
            _fail(item, _join(path, field.name), "is missing and has no default; give it")
    values = {key: _build(hints[key], entry, _join(path, key)) for key, entry in item.value.items()}
    try:
        return kind(**values)
    except FieldError as error:
        _relocate(error, item, path)


def _list(inner: tuple[Any, ...], item: YamlNode, path: str) -> tuple[Any, ...]:
    if not isinstance(item.value, list):
        _fail(item, path, f"expected a list such as [..., ...], found {item.describe()}")
    if inner[-1] is Ellipsis:
        inner = inner[:1] * len(item.value)
    if len(inner) != len(item.value):
        _fail(item, path, f"expected a list of exactly {len(inner)}, found {item.describe()}")
    return tuple(_build(k, entry, f"{path}.{i}") for i, (k, entry) in enumerate(zip(inner, item.value)))


def _mapping(inner: tuple[Any, ...], item: YamlNode, path: str) -> dict[str, Any]:
    """Names of a Literal -> values."""
    names = get_args(inner[0])
    if not isinstance(item.value, dict):
        _fail(item, path, f"expected a mapping such as {{{names[0]}: ...}}, found {item.describe()}")
    keys = {name: YamlNode(name, entry.where, entry.order) for name, entry in item.value.items()}
    return {
        _choice(names, keys[name], _join(path, name)): _build(inner[1], entry, _join(path, name))
        for name, entry in item.value.items()
    }


def _choice(choices: tuple[Any, ...], item: YamlNode, path: str) -> Any:
    if item.value in choices and not isinstance(item.value, bool):
        return item.value
    text = str(item.value).removeprefix("torch.")
    near = [DTYPES[text]] if DTYPES.get(text) in choices else difflib.get_close_matches(text, map(str, choices), 1, 0.4)
    hint = f" (did you mean {near[0]}?)" if near else ""
    if text == "auto" and path.endswith(".dtype"):
        hint = "; `vglm checkpoint inspect FOLDER` says which one the files have"
    _fail(item, path, f"expected one of {', '.join(map(str, choices))}; found {item.describe()}{hint}")


def _value(kind: type, item: YamlNode, path: str) -> Any:
    value, number = item.value, _number(item)
    if kind is float and number is not None:
        return number
    if type(value) is kind and kind is not float:
        return value
    hint = ""
    if kind is int and number is not None and number == int(number):
        hint = f"; write {int(number)}"
    elif kind is str and isinstance(value, int | float):
        hint = "; put it in quotes if it is meant"
    _fail(item, path, f"expected {WANTED[kind]}, found {item.describe()}{hint}")


def _number(item: YamlNode) -> float | None:
    """The value as a finite number if it is one, 1e-4 without a dot included; None otherwise."""
    if isinstance(item.value, bool) or not isinstance(item.value, int | float | str):
        return None
    if isinstance(item.value, str) and not item.plain:
        return None
    try:
        number = float(item.value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _split_pair(key: str, names: Sequence[str]) -> str | None:
    """`steps: 100` where a key such as "steps:100", "steps=100" or "steps 100" begins with one of `names`."""
    pair = re.fullmatch(r"(\w+)\s*[:=\s]\s*(\S.*)", key)
    return f"{pair[1]}: {pair[2]}" if pair and pair[1] in names else None


def _unknown(key: str, kind: Any, path: str) -> str:
    names = _names(kind)
    if pair := _split_pair(key, names):
        return f"a colon and a blank divide a key from its value; write `{pair}`"
    near = difflib.get_close_matches(key, names, 1, 0.6)
    elsewhere = [p for p in _paths(Config) if p.rpartition(".")[2] == key]
    meant = [_join(path, near[0])] if near else elsewhere
    hint = f" Did you mean {' or '.join(meant)}?" if meant else ""
    return f"unknown key.{hint} Valid here: {', '.join(names)}"


def _paths(kind: Any, path: str = "") -> Iterator[str]:
    """Dotted names of all keys, sections included; entries of lists are left out."""
    for name, hint in get_type_hints(kind).items():
        yield _join(path, name)
        if dataclasses.is_dataclass(hint):
            yield from _paths(hint, _join(path, name))


def _relocate(error: FieldError, root: YamlNode, path: str) -> NoReturn:
    """Blame the latest given of the fields involved; where all are defaults, the nearest section that is written."""
    trails = [_trail(root, field) for field in error.fields]
    whole = [t[-1] for t, field in zip(trails, error.fields) if len(t) == field.count(".") + 2]
    item = max(whole, key=lambda i: i.order) if whole else trails[0][-1]
    _fail(item, _join(path, error.fields[0]), error.reason)


def _trail(root: YamlNode, field: str) -> list[YamlNode]:
    """The items from `root` down to `field`, as far as they are written."""
    trail = [root]
    for part in field.split("."):
        below = trail[-1].step(part)
        if below is None:
            break
        trail.append(below)
    return trail


def _fail(item: YamlNode, path: str, reason: str) -> NoReturn:
    raise UserError(f"{item.where}: {path}: {reason}")


def _names(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
