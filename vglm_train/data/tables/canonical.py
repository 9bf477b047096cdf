"""A table's row, in whichever of the layouts people have, as a record."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vglm_train.data.record import RecordError
from vglm_train.data.tables.fields import Columns, value
from vglm_train.prompt.dialogue import IMAGE, is_chinese

Turns = list[dict[str, str]]
ROLES = {
    "human": "user", "user": "user", "question": "user",
    "gpt": "assistant", "assistant": "assistant", "model": "assistant", "bot": "assistant", "answer": "assistant",
    "system": "system",
}  # fmt: skip
LANGUAGES = {"zh": "zh", "chinese": "zh", "cn": "zh", "en": "en", "english": "en"}
KINDS = {"closed": "closed", "yes/no": "closed", "open": "open", "number": "open", "other": "open", "report": "report"}
SAMPLED = 100  # characters that the language is told from


class NoPicture(RecordError):  # noqa: N818  (an observation)
    """A row of text alone."""

    def __init__(self) -> None:
        super().__init__("image", "the row names no picture")


def to_record(row: Mapping[str, Any], columns: Columns) -> tuple[dict[str, Any], list[str | bytes]]:
    """The row as a record (`turns` [{role: user|assistant, text}] where something is asked, else `captions`; `answers`
    where one question has several) and its pictures, each a path as it is written or the file's bytes.

    RecordError where it cannot be trained on; NoPicture where that is all it lacks.
    """
    pictures = pictures_of(row, columns)
    record: dict[str, Any] = labels(row, columns)
    turns = value(row, columns.turns)
    if turns is not None:
        record["turns"], inside = _turns(turns)
        pictures = pictures or inside
    else:
        record |= _answered(value(row, columns.question), _answers(row, columns))
    record["language"] = _language(value(row, columns.language), record)
    if kind := _kind(row, columns, record):
        record["kind"] = kind
    if "image_id" in row and (isinstance(row.get("captions"), dict) or "turns" in row):
        record["image_id"] = row["image_id"]  # a record already: the hash of its picture
    if not pictures:
        raise NoPicture
    names = [picture if isinstance(picture, str) else "" for picture in pictures]
    return {**record, "image": names[0] if len(names) == 1 else names}, pictures


def question_of(row: Mapping[str, Any], columns: Columns) -> tuple[str, list[tuple[str, str]], list[str | bytes]]:
    """The row's last question ("" where it asks nothing), the questions and answers before it, and its pictures.

    Marks of pictures are left out. RecordError as `to_record`, but for answers, which it need not have.
    """
    pictures, turns = pictures_of(row, columns), value(row, columns.turns)
    if turns is None:
        question, before = value(row, columns.question), []
    else:
        said, inside = _said(turns)
        pictures = pictures or inside
        texts = [turn["text"].replace(IMAGE, "").strip() for turn in said[: len(said) - 1 + len(said) % 2]]
        question, before = texts[-1] if texts else None, list(zip(texts[:-1:2], texts[1::2]))
    if not pictures:
        raise NoPicture
    return "" if question is None else str(question).replace(IMAGE, "").strip(), before, pictures


def labels(row: Mapping[str, Any], columns: Columns) -> dict[str, str]:
    """What a record takes of the row as it stands: id, group, type and split, those that it has."""
    names = {"id": columns.id, "group": columns.group, "type": columns.type, "split": columns.split}
    values = {name: value(row, keys) for name, keys in names.items()}
    return {name: str(held) for name, held in values.items() if held is not None and not isinstance(held, list | dict)}


def pictures_of(row: Mapping[str, Any], columns: Columns) -> list[str | bytes]:
    """The pictures that the row names, or holds. RecordError where something else is in their place."""
    return _pictures(value(row, columns.pictures))


def _pictures(held: Any) -> list[str | bytes]:
    """A path, a number that names one, `datasets`' {bytes, path}, or a list of these."""
    match held:
        case None:
            return []
        case list() | tuple():
            return [picture for each in held for picture in _pictures(each)]
        case {"bytes": bytes() as content} if content:
            return [content]
        case {"path": str() as path} | {"url": str() as path}:
            return [path]
        case bytes():
            return [held]
        case str() | int():
            return [str(held).strip()]
    raise RecordError("record", f"a picture must be a path, found {type(held).__name__}")


def _turns(dialogue: Any) -> tuple[Turns, list[str | bytes]]:
    """What is said, up to the last answer, and the pictures in it."""
    turns, pictures = _said(dialogue)
    return _drop_unanswered(turns), pictures


def _said(dialogue: Any) -> tuple[Turns, list[str | bytes]]:
    """LLaVA's [{from, value}], messages [{role, content}] or our own [{role, text}]; system texts are left out."""
    if not isinstance(dialogue, Sequence) or isinstance(dialogue, str):
        raise RecordError("record", f"a dialogue must be a list of turns, found {type(dialogue).__name__}")
    turns: Turns = []
    pictures: list[str | bytes] = []
    for each in dialogue:
        fields = each if isinstance(each, dict) else {}
        name = value(fields, ("from", "role"))
        role = ROLES.get(name) or ROLES.get(str(name).lower())
        if role is None:
            raise RecordError("record", f"a turn is of {name!r}; known are {', '.join(ROLES)}")
        text = value(fields, ("value", "text", "content"))
        if not isinstance(text, str):
            text, inside = _content(text)
            pictures += inside
        if turns and turns[-1]["role"] == role:
            turns[-1]["text"] += "\n" + text
        elif role != "system":
            turns.append({"role": role, "text": text})
    return turns, pictures


def _drop_unanswered(turns: Turns) -> Turns:
    """Without a question at the end that nobody answers."""
    turns = turns[: len(turns) // 2 * 2]
    if not turns:
        raise RecordError("caption", "a dialogue without an answer")
    if turns[0]["role"] != "user":
        raise RecordError("record", "the dialogue begins with an answer")
    if not all(turn["text"].strip() for turn in turns[1::2]):
        raise RecordError("caption", "an answer of the dialogue is empty")
    return turns


def _content(content: Any) -> tuple[str, list[str | bytes]]:
    """A text, or parts as chat interfaces take them: {type: text} and {type: image}, of which each leaves a mark."""
    if not isinstance(content, list):
        return "" if content is None else str(content), []
    texts: list[str] = []
    pictures: list[str | bytes] = []
    for part in content:
        fields = part if isinstance(part, dict) else {"text": part}
        if "text" in fields and fields["text"] is not None:
            texts.append(str(fields["text"]))
            continue
        pictures += _pictures(value(fields, ("image", "image_url", "path", "url")))
        texts.append(IMAGE)
    return "\n".join(texts), pictures


def _answers(row: Mapping[str, Any], columns: Columns) -> list[tuple[str | None, str]]:
    """Every answer there is, with its language where the row gives it."""
    by_name = [name for name in columns.answer if row.get(name) and name[-3:] in ("_en", "_zh")]
    if by_name:
        return [answer for name in by_name for answer in texts_of(row[name], name[-2:])]
    return list(texts_of(value(row, columns.answer)))


def texts_of(held: Any, language: str | None = None) -> Iterator[tuple[str | None, str]]:
    """Language, None where none is given, and text: of a text or number, a list, {"en": ..., "zh": ...}, or an object
    that has the text under a usual key, as in VQAv2's and Karpathy's files. RecordError for anything else."""
    match held:
        case None:
            return
        case list() | tuple():
            for each in held:
                yield from texts_of(each, language)
        case {"answer": text} | {"caption": text} | {"raw": text} | {"text": text}:
            yield from texts_of(text, language)
        case {"en": _} | {"zh": _}:
            for name in ("en", "zh"):
                yield from texts_of(held.get(name), name)
        case str() | int() | float():
            if text := str(held).strip():
                yield language, text
        case _:
            raise RecordError("record", f"an answer must be a text, found {type(held).__name__}")


def _answered(question: Any, answers: list[tuple[str | None, str]]) -> dict[str, Any]:
    """A question's turns, learned with its commonest answer; captions where nothing is asked."""
    if not answers:
        raise RecordError("caption", "the row has no answer")
    if question is None or answers[0][0] is not None:
        captions: dict[str, list[str]] = {}
        for language, text in answers:
            captions.setdefault(language or _language_of(text), []).append(text)
        return {"captions": captions}
    texts = [text for _, text in answers]
    commonest = Counter(texts).most_common(1)[0][0]
    turns = [{"role": "user", "text": str(question)}, {"role": "assistant", "text": commonest}]
    return {"turns": turns} | ({"answers": texts} if len(texts) > 1 else {})


def _language(name: Any, record: Mapping[str, Any]) -> str:
    known = LANGUAGES.get(str(name).lower().split("-")[0].split("_")[0])
    if known is not None:
        return known
    if "turns" in record:
        return _language_of(" ".join(turn["text"] for turn in record["turns"][:2]).replace(IMAGE, ""))
    return next(iter(record["captions"]))


def _language_of(text: str) -> str:
    """From the beginning of a long text, which may be one of hundreds of thousands."""
    return "zh" if not text.isascii() and is_chinese(text[:SAMPLED]) else "en"


def _kind(row: Mapping[str, Any], columns: Columns, record: Mapping[str, Any]) -> str | None:
    kind = KINDS.get(str(value(row, columns.kind)).lower()) or KINDS.get(str(record.get("type")).lower())
    return "closed" if kind is None and value(row, columns.options) else kind
