"""A table's row, in whichever of the layouts people have, as a record."""

from collections import Counter
from collections.abc import Mapping, Sequence
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
SEEN = 100  # characters that the language is told from


class NoPicture(RecordError):  # noqa: N818  (says what was found)
    """A row of text alone."""

    def __init__(self) -> None:
        super().__init__("image", "the row names no picture")


def canonical(row: Mapping[str, Any], columns: Columns) -> tuple[dict[str, Any], list[str | bytes]]:
    """The row as a record (`turns` [{role: user|assistant, text}] where something is asked, else `captions`; `answers`
    where one question has several) and its pictures, each a path as it is written or the file's bytes.

    RecordError where it cannot be trained on; NoPicture where that is all it lacks.
    """
    pictures = _pictures(value(row, columns.image or columns.image_id))
    record: dict[str, Any] = {}
    for name, keys in columns.kept:
        found = value(row, keys)
        if found is not None and not isinstance(found, list | dict):
            record[name] = str(found)
    said = value(row, columns.turns)
    if said is not None:
        record["turns"], inside = _turns(said)
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


def _pictures(found: Any) -> list[str | bytes]:
    """A path, a number that names one, `datasets`' {bytes, path}, or a list of these."""
    match found:
        case None:
            return []
        case list() | tuple():
            return [picture for each in found for picture in _pictures(each)]
        case {"bytes": bytes() as content}:
            return [content]
        case {"path": str() as path} | {"url": str() as path}:
            return [path]
        case bytes():
            return [found]
        case str() | int():
            return [str(found).strip()]
    raise RecordError("record", f"a picture must be a path, found {type(found).__name__}")


def _turns(said: Any) -> tuple[Turns, list[str | bytes]]:
    """LLaVA's [{from, value}], messages [{role, content}] or our own [{role, text}]; system texts are left out."""
    if not isinstance(said, Sequence) or isinstance(said, str):
        raise RecordError("record", f"a dialogue must be a list of turns, found {type(said).__name__}")
    turns: Turns = []
    pictures: list[str | bytes] = []
    for each in said:
        fields = each if isinstance(each, dict) else {}
        given = value(fields, ("from", "role"))
        role = ROLES.get(given) or ROLES.get(str(given).lower())
        if role is None:
            raise RecordError("record", f"a turn is of {given!r}; known are {', '.join(ROLES)}")
        text = value(fields, ("value", "text", "content"))
        if not isinstance(text, str):
            text, inside = _content(text)
            pictures += inside
        if turns and turns[-1]["role"] == role:
            turns[-1]["text"] += "\n" + text
        elif role != "system":
            turns.append({"role": role, "text": text})
    return _whole(turns), pictures


def _whole(turns: Turns) -> Turns:
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


def _answers(row: Mapping[str, Any], columns: Columns) -> list[str] | dict[str, list[str]]:
    """Every answer there is; captions by language where they are told apart."""
    by_name = {name: row[name] for name in columns.answer if row.get(name) and name[-3:] in ("_en", "_zh")}
    if by_name:
        return {name[-2:]: _texts(found) for name, found in by_name.items()}
    found = value(row, columns.answer)
    if isinstance(found, dict) and set(found) <= {"en", "zh"}:
        return {language: _texts(texts) for language, texts in found.items() if _texts(texts)}
    return _texts(found)


def _texts(found: Any) -> list[str]:
    match found:
        case None:
            return []
        case list() | tuple():
            return [text for each in found for text in _texts(each)]
        case {"answer": text} | {"caption": text} | {"raw": text} | {"text": text}:
            return _texts(text)
        case str() | int() | float():
            return [text] if (text := str(found).strip()) else []
    raise RecordError("record", f"an answer must be a text, found {type(found).__name__}")


def _answered(question: Any, answers: list[str] | dict[str, list[str]]) -> dict[str, Any]:
    """A question's turns, learned with its commonest answer; captions where nothing is asked."""
    if not answers:
        raise RecordError("caption", "the row has no answer")
    if isinstance(answers, dict):
        return {"captions": answers}
    if question is None:
        spoken: dict[str, list[str]] = {}
        for text in answers:
            spoken.setdefault(_told(text), []).append(text)
        return {"captions": spoken}
    commonest = Counter(answers).most_common(1)[0][0]
    turns = [{"role": "user", "text": str(question)}, {"role": "assistant", "text": commonest}]
    return {"turns": turns} | ({"answers": answers} if len(answers) > 1 else {})


def _language(given: Any, record: Mapping[str, Any]) -> str:
    known = LANGUAGES.get(str(given).lower().split("-")[0].split("_")[0])
    if known is not None:
        return known
    if "turns" in record:
        return _told(" ".join(turn["text"] for turn in record["turns"][:2]).replace(IMAGE, ""))
    return next(iter(record["captions"]))


def _told(text: str) -> str:
    """From the beginning of a long text, which may be one of hundreds of thousands."""
    return "zh" if not text.isascii() and is_chinese(text[:SEEN]) else "en"


def _kind(row: Mapping[str, Any], columns: Columns, record: Mapping[str, Any]) -> str | None:
    kind = KINDS.get(str(value(row, columns.kind)).lower()) or KINDS.get(str(record.get("type")).lower())
    return "closed" if kind is None and value(row, columns.options) else kind
