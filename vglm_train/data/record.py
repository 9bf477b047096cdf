"""A record: one picture with its captions, as it stands in a shard's KEY.json and in a records file."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class RecordError(Exception):
    """A record that cannot be used. `cause` is "record" (not the JSON it should be) or "caption" (none, or empty)."""

    def __init__(self, cause: str, reason: str) -> None:
        super().__init__(cause, reason)  # as they are, for pickle
        self.cause, self.reason = cause, reason

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, slots=True)
class Record:
    """`captions`: language -> captions, none of them blank; `turns`: a dialogue, (question, answer) each, oldest first,
    where a question holds <image> for each picture that it brings; `group`: a patient or page, never split.
    """

    id: str
    image: str
    image_id: int | None  # content hash, 63 bits: equal ids are one picture. None: take content_id of the bytes
    captions: dict[str, tuple[str, ...]]
    source: str | None = None
    split: str | None = None
    group: str | None = None
    turns: tuple[tuple[str, str], ...] = ()
    kind: str | None = None  # closed, open, report: how the answer is scored
    language: str | None = None  # of the turns; None: found in their text


def parse(data: bytes | str | Mapping[str, Any]) -> Record:
    """JSON, or what it was read from, -> Record. RecordError with its cause where that cannot be."""
    fields = data if isinstance(data, Mapping) else _object(data)
    return Record(
        id=str(fields.get("id", "")),
        image=str(fields.get("image", "")),
        image_id=_image_id(fields.get("image_id")),
        captions=_captions(fields.get("captions")),
        source=_text(fields, "source"),
        split=_text(fields, "split"),
        group=_text(fields, "group"),
    )


def content_id(data: bytes) -> int:
    """The `image_id` of a file's bytes: 63 bits of BLAKE2b, which fit an int64."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest()) >> 1


def _object(data: bytes | str) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RecordError("record", f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RecordError("record", f"a record must be a JSON object, found {type(value).__name__}")
    return value


def _image_id(value: Any) -> int | None:
    match value:
        case None:
            return None
        case bool():
            pass
        case int() if 0 <= value < 2**63:
            return value
        case str() if value:  # another tool's hash: any text will do, as long as equal means equal
            return content_id(value.encode("utf-8", "replace"))
    raise RecordError("record", f"image_id must be a whole number below 2^63 or a text, found {value!r}")


def _captions(value: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(value or {}, dict):
        raise RecordError("record", f'captions must be {{"en": [...]}}, found {type(value).__name__}')
    found = {}
    for language, texts in (value or {}).items():
        listed = [texts] if isinstance(texts, str) else texts or []
        if not isinstance(listed, list | tuple) or not all(isinstance(text, str) for text in listed):
            raise RecordError("record", f"captions of {language!r} must be a list of texts")
        kept = tuple(text for text in listed if text.strip())
        if kept:
            found[str(language)] = kept
    if not found:
        raise RecordError("caption", "no caption, or only empty ones")
    return found


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return None if value is None else str(value)
