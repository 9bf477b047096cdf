"""A record: pictures with captions or a dialogue, as it stands in a shard's KEY.json and in a records file."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vglm_train.prompt.dialogue import IMAGE, is_chinese

ROLES = ("user", "assistant")


class RecordError(Exception):
    """A record that cannot be used.

    `cause` is "record" (not what it should be), "caption" (it says nothing, or nothing in a configured language), or
    "image" (its pictures are not all there). Data tools count rows under further causes.
    """

    def __init__(self, cause: str, reason: str) -> None:
        super().__init__(cause, reason)  # as they are, for pickle
        self.cause, self.reason = cause, reason

    def __str__(self) -> str:
        return self.reason

    @property
    def what(self) -> str:
        """What is wrong, without what is wrong with this record alone: the reason up to a colon."""
        return self.reason.partition(": ")[0]


def kind_of(value: Any) -> str:
    """What a JSON value is, in words for a person."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {value[:40]!r}"
        case list() | tuple():
            return "a list"
        case Mapping():
            return "an object"
    return type(value).__name__


@dataclass(frozen=True, slots=True)
class Record:
    """`captions`: language -> captions, none of them blank; `turns`: a dialogue, (question, answer) each, oldest first,
    where a question holds <image> for each picture that it brings, no answer is blank, and without any mark all
    pictures stand before the first question; `group`: a patient or page, never split. It has captions or turns.
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
    language: str | None = None  # of the turns; None: there are none
    more: tuple[str, ...] = ()  # further pictures of a dialogue, in order
    answers: tuple[str, ...] = ()  # all that are right to the last question; empty: the one that is learned
    options: tuple[str, ...] = ()  # choices that the last question gives
    type: str | None = None  # what is asked about: plane, abnormality, ...

    def answers_to(self, turn: int) -> tuple[str, ...]:
        """All answers to the question of a turn, from 0, that are right."""
        last = turn == len(self.turns) - 1
        return self.answers if self.answers and last else (self.turns[turn][1],)

    def picture_id(self, image: bytes) -> int:
        """Its `image_id`; where it gives none, the `content_id` of its first picture's bytes."""
        return content_id(image) if self.image_id is None else self.image_id

    @property
    def caption_counts(self) -> dict[str, int]:
        """Captions and turns by language."""
        counts = {language: len(texts) for language, texts in self.captions.items()}
        if self.language and self.turns:
            counts[self.language] = counts.get(self.language, 0) + len(self.turns)
        return counts


def parse(data: bytes | str | Mapping[str, Any]) -> Record:
    """JSON, or what it was read from, -> Record. RecordError with its cause where that cannot be.

    `image` may be a list of pictures; `turns` are [{"role": "user" | "assistant", "text": ...}], in turn. The language
    of turns is detected from their text where `language` is not given.
    """
    fields = data if isinstance(data, Mapping) else _object(data)
    captions, turns = _captions(fields.get("captions")), _turns(fields.get("turns"))
    if not captions and not turns:
        raise RecordError("caption", "no caption and no turn, or only empty ones")
    image, *more = _images(fields.get("image"))
    return Record(
        id=str(fields.get("id", "")),
        image=image,
        image_id=_image_id(fields.get("image_id")),
        captions=captions,
        source=_text(fields, "source"),
        split=_text(fields, "split"),
        group=_text(fields, "group"),
        turns=turns,
        kind=_text(fields, "kind"),
        language=(_text(fields, "language") or _language(turns)) if turns else None,
        more=tuple(more),
        answers=_texts(fields, "answers"),
        options=_texts(fields, "options"),
        type=_text(fields, "type"),
    )


def as_fields(record: Record) -> dict[str, Any]:
    """What `parse` reads back as the same record; fields that only some records have are left out of the others."""
    fields: dict[str, Any] = {
        "id": record.id,
        "image": [record.image, *record.more] if record.more else record.image,
        "image_id": record.image_id,
        "captions": {language: list(texts) for language, texts in record.captions.items()},
        "source": record.source,
        "split": record.split,
        "group": record.group,
    }
    if record.turns:
        roles = zip(ROLES * len(record.turns), (text for turn in record.turns for text in turn))
        fields["turns"] = [{"role": role, "text": text} for role, text in roles]
        fields["language"] = record.language
    further = {
        "answers": list(record.answers),
        "options": list(record.options),
        "kind": record.kind,
        "type": record.type,
    }
    return fields | {name: value for name, value in further.items() if value not in (None, [])}


def content_id(data: bytes) -> int:
    """The `image_id` of a file's bytes: 63 bits of BLAKE2b, which fit an int64."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest()) >> 1


def _object(data: bytes | str) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RecordError("record", f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RecordError("record", f"a record must be a JSON object: found {kind_of(value)}")
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
    raise RecordError("record", f"image_id must be a whole number below 2^63 or a text: found {value!r}")


def _captions(value: Any) -> dict[str, tuple[str, ...]]:
    if not value:
        return {}
    if not isinstance(value, dict):
        raise RecordError("record", f"captions must be an object with a list for each language: found {kind_of(value)}")
    captions = {}
    for language, texts in value.items():
        listed = [texts] if isinstance(texts, str) else texts or []
        if not isinstance(listed, list | tuple) or not all(isinstance(text, str) for text in listed):
            raise RecordError("record", f"captions of {language!r} must be a list of texts")
        kept = tuple(_whole(text) for text in listed if text.strip())
        if kept:
            captions[str(language)] = kept
    return captions


def _turns(value: Any) -> tuple[tuple[str, str], ...]:
    """Questions with their answers."""
    if not value:
        return ()
    if not isinstance(value, list | tuple):
        raise RecordError("record", f"turns must be a list: found {kind_of(value)}")
    texts = [_turn_text(number, turn) for number, turn in enumerate(value)]
    return tuple(zip(texts[::2], texts[1::2]))  # a question at the end that nobody answers is left out


def _turn_text(number: int, turn: Any) -> str:
    role, text = (turn.get("role"), turn.get("text")) if isinstance(turn, Mapping) else (None, None)
    wanted = ROLES[number % 2]
    if role != wanted or not isinstance(text, str):
        reason = f'a turn must be {{"role": "{wanted}", "text": ...}}: turn {number} is {str(turn)[:80]}'
        raise RecordError("record", reason)
    if wanted == ROLES[1] and not text.strip():
        raise RecordError("caption", f"an answer is empty: that of turn {number}")
    return _whole(text)


def _language(turns: Sequence[tuple[str, str]]) -> str:
    text = "\n".join(text for turn in turns for text in turn)
    return "zh" if is_chinese(text.replace(IMAGE, "")) else "en"


def _images(value: Any) -> list[str]:
    listed = list(value) if isinstance(value, list | tuple) else [value]
    return ["" if name is None else str(name) for name in listed] or [""]


def _texts(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = fields.get(name)
    if not value:
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(text, str | int | float) for text in value):
        raise RecordError("record", f"{name} must be a list of texts: found {str(value)[:80]}")
    return tuple(_whole(str(text)) for text in value)


def _whole(text: str) -> str:
    """With ? for each half of a character, which JSON may escape and tokenizers refuse; pack_shards writes it so."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return None if value is None else str(value)


class DamagedSample(Exception):  # noqa: N818  (an event to be counted, not a fault)
    """A sample that cannot be had. `cause` is one of vglm_train.batch.CAUSES."""

    def __init__(self, cause: str, shard: str, key: str, reason: str) -> None:
        super().__init__(cause, shard, key, reason)  # as they are, for pickle
        self.cause, self.shard, self.key, self.reason = cause, shard, key, reason

    def __str__(self) -> str:
        return f"{self.shard}, key {self.key} ({self.cause}): {self.reason}"


class RawSample(NamedTuple):
    """A sample's bytes, nothing of them parsed or decoded."""

    key: str
    image: bytes
    extension: str
    json: bytes
    more: tuple[bytes, ...] = ()  # further pictures of a dialogue, in order

    @property
    def images(self) -> tuple[bytes, ...]:
        return (self.image, *self.more)
