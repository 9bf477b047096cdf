"""The configuration as a JSON schema, from the sections and their annotations: editors complete and check keys by it.

Draft 7 with everything in place, because that is what editors' YAML servers read best.
"""

import dataclasses
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from vglm_train.config.inherit import KEY
from vglm_train.config.model import Model
from vglm_train.config.run import Config
from vglm_train.config.validation import NotEmpty, Range

DRAFT = "http://json-schema.org/draft-07/schema#"
PLAIN = {int: "integer", float: "number", bool: "boolean", str: "string"}
BUNDLE = "a bundle to begin with: model, prompt and normalisation are its own, and what stands beside it goes over them"


@dataclass(frozen=True, slots=True)
class FieldInfo:
    """A field of a section. `limits`: what it must keep beside its type."""

    name: str
    kind: Any
    text: str
    limits: tuple[Range | NotEmpty, ...]
    default: Any
    required: bool


def fields_of(section: type) -> list[FieldInfo]:
    """The fields of a section in order. AssertionError where one has no description."""
    hints = get_type_hints(section, include_extras=True)
    found = []
    for field in dataclasses.fields(section):
        hint = hints[field.name]
        assert get_origin(hint) is Annotated, f"{section.__name__}.{field.name} has no description"
        kind, *extras = get_args(hint)
        (text,) = (extra for extra in extras if isinstance(extra, str))
        limits = tuple(extra for extra in extras if isinstance(extra, Range | NotEmpty))
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        required = default is dataclasses.MISSING
        found.append(FieldInfo(field.name, kind, text, limits, None if required else default, required))
    return found


def schema() -> dict[str, Any]:
    """The JSON schema of a run's YAML."""
    return {"$schema": DRAFT, "title": "vglm_train", **_section(Config)}


def without_none(kind: Any) -> tuple[Any, bool]:
    """The kind of a field without `| None`, and whether null is allowed."""
    if get_origin(kind) in (Union, UnionType):
        (inner,) = (each for each in get_args(kind) if each is not NoneType)
        return inner, True
    return kind, False


def _section(section: type) -> dict[str, Any]:
    infos = fields_of(section)
    properties = {info.name: _field(info) for info in infos}
    if section is Model:
        properties[KEY] = {"type": ["string", "null"], "description": BUNDLE}
    rules: dict[str, Any] = {"type": "object", "description": " ".join((section.__doc__ or "").split())}
    if needed := [info.name for info in infos if info.required]:
        rules["required"] = needed
    return {**rules, "additionalProperties": False, "properties": properties}


def _field(info: FieldInfo) -> dict[str, Any]:
    kind, nullable = without_none(info.kind)
    rules = _kind(kind, info.limits)
    section = f". {rules['description']}" if "description" in rules else ""
    if nullable:
        rules = _or_null(rules)
    rules["description"] = info.text + section
    if not info.required and not dataclasses.is_dataclass(info.default):
        rules["default"] = _plain(info.default)
    return rules


def _or_null(rules: dict[str, Any]) -> dict[str, Any]:
    if "enum" in rules:
        return {"enum": [*rules["enum"], None]}
    if "properties" in rules:
        return {"anyOf": [rules, {"type": "null"}]}
    return {**rules, "type": [rules["type"], "null"]}


def _kind(kind: Any, limits: tuple[Range | NotEmpty, ...]) -> dict[str, Any]:
    origin, inner = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        assert isinstance(kind, type)
        return _section(kind)
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is dict:
        names = get_args(inner[0])
        values = {name: _kind(inner[1], limits) for name in names}
        return {"type": "object", "additionalProperties": False, "properties": values}
    if origin is tuple:
        sizes = {} if inner[-1] is Ellipsis else {"minItems": len(inner), "maxItems": len(inner)}
        least = {"minItems": 1} if any(isinstance(limit, NotEmpty) for limit in limits) else {}
        ranges = tuple(limit for limit in limits if isinstance(limit, Range))
        return {"type": "array", "items": _kind(inner[0], ranges), **sizes, **least}
    return {"type": PLAIN[kind], **_limits(limits)}


def _limits(limits: tuple[Range | NotEmpty, ...]) -> dict[str, Any]:
    rules: dict[str, Any] = {}
    for limit in limits:
        if isinstance(limit, NotEmpty):
            rules["pattern"] = r"\S"
            continue
        names = {
            "exclusiveMinimum": limit.above, "minimum": limit.least,
            "exclusiveMaximum": limit.below, "maximum": limit.most,
        }  # fmt: skip
        rules.update({name: value for name, value in names.items() if value is not None})
    return rules


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value
