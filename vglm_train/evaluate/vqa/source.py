"""What --data and --train name, with their options, as a source."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from vglm_train.config.data import Fields, Format, Source
from vglm_train.config.validation import FieldError
from vglm_train.errors import UserError

KEYS = ("split", "format", "encoding", "delimiter", "columns", "join", "image_template")  # of a source, with a table


def parse_source(path: str, pictures: str | None, fields: str | None, options: Sequence[str], name: str) -> Source:
    """Shards, or a table with its options, KEY=VALUE of KEYS each; `name`: how the command line calls these.

    UserError for an option that is none, or that shards do not have.
    """
    shards = (Path(path) / "manifest.json").exists() or Path(path).name == "manifest.json"
    try:
        if shards:
            return Source(name="evaluation", shards=path, **_options(options, name))
        return Source(
            name="evaluation", table=path, images=pictures, fields=parse_fields(fields), **_options(options, name)
        )
    except FieldError as error:
        raise UserError(f"{name}: {error}") from error


def _options(texts: Sequence[str], name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in KEYS:
            raise UserError(f"{name} {text}: give KEY=VALUE, where KEY is one of {', '.join(KEYS)}")
        found[key] = tuple(part.strip() for part in value.split(",")) if key == "columns" else value
    if found.get("format", "json") not in get_args(Format):
        raise UserError(f"{name} format={found['format']}: the formats are {', '.join(get_args(Format))}")
    return found


def parse_fields(argument: str | None) -> Fields:
    """What --fields says, image=path,question=q. UserError for a wrong one."""
    pairs = dict(part.partition("=")[::2] for part in (argument or "").split(",") if part)
    known = [field.name for field in dataclasses.fields(Fields)]
    for name in pairs:
        if name not in known:
            raise UserError(f"--fields {argument}: {name!r} is none of {', '.join(known)}; give {known[0]}=COLUMN,...")
    try:
        return Fields(**pairs)
    except FieldError as error:
        raise UserError(f"--fields {argument}: {error}") from error
