"""A row's dialogue: turns that it lists, and the earlier turns of a history."""

import re
from typing import Any

from vglm_train.data.record import RecordError, kind_of
from vglm_train.data.tables.cells import answer_text, is_missing, says_nothing
from vglm_train.data.tables.choices import listed
from vglm_train.data.tables.fields import value
from vglm_train.data.tables.pictures import Picture, pictures_in
from vglm_train.prompt.dialogue import IMAGE

Turns = list[dict[str, str]]
ROLES = {
    "human": "user", "user": "user", "question": "user",
    "gpt": "assistant", "assistant": "assistant", "model": "assistant", "bot": "assistant", "answer": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "system": "system",
}  # fmt: skip
SYSTEM = "a system text, left out since prompts have no place for one"
UNANSWERED = "a question at the end that nobody answers, left out"
MARK_IN_ANSWER = f"{IMAGE} in an answer, learned as a text"

_MARK = re.compile(r"<image>|<imagehere>|<\|image\|>|<img>(.*?)</img>", re.IGNORECASE | re.DOTALL)


def marked(text: str) -> tuple[str, list[Picture]]:
    """A question with every mark of a picture as IMAGE, and the pictures that Qwen's <img>path</img> names."""
    if text.count("<") == text.count(IMAGE):
        return text, []
    named = [match[1].strip() for match in _MARK.finditer(text) if match[1] and not _MARK.fullmatch(match[1].strip())]
    return _MARK.sub(IMAGE, text), list(named)


def dialogue_turns(dialogue: Any, notes: list[str]) -> tuple[Turns, list[Picture]]:
    """LLaVA's [{from, value}], messages [{role, content}] or our own [{role, text}], with the pictures inside.

    `notes` gets what is left out: system texts, a question at the end without an answer.
    """
    turns, pictures = _turns(dialogue, notes)
    return _answered(turns, notes), pictures


def open_turns(dialogue: Any, notes: list[str]) -> tuple[Turns, list[Picture]]:
    """As `dialogue_turns`, up to the last question, whether it is answered or not."""
    turns, pictures = _turns(dialogue, notes)
    if turns and turns[0]["role"] != "user":
        raise RecordError("record", "the dialogue begins with an answer")
    return turns[: len(turns) - 1 + len(turns) % 2], pictures


def history_turns(history: Any, notes: list[str]) -> tuple[Turns, list[Picture]]:
    """Earlier turns: [question, answer] each, or turns as of `dialogue_turns`."""
    held = listed(history)
    if not isinstance(held, list | tuple):
        raise RecordError("record", f"a history must be a list of turns: found {kind_of(held)}")
    pairs = [each for each in held if not is_missing(each)]
    if all(isinstance(each, list | tuple) and len(each) == 2 for each in pairs):
        held = [{"role": role, "text": text} for pair in pairs for role, text in zip(("user", "assistant"), pair)]
    turns, pictures = _turns(held, notes)
    if len(turns) % 2:
        raise RecordError("record", "a history must end with an answer")
    return _answered(turns, notes) if turns else [], pictures


def _turns(dialogue: Any, notes: list[str]) -> tuple[Turns, list[Picture]]:
    dialogue = listed(dialogue)
    if not isinstance(dialogue, list | tuple):
        raise RecordError("record", f"a dialogue must be a list of turns: found {kind_of(dialogue)}")
    turns: Turns = []
    pictures: list[Picture] = []
    for each in dialogue:
        fields = each if isinstance(each, dict) else {}
        name = str(fields.get("from") or fields.get("role"))
        role = ROLES.get(name) or ROLES.get(name.strip().lower())
        if role is None:
            raise RecordError("record", f"a turn is of an unknown role: {name[:40]!r}; known are {', '.join(ROLES)}")
        if role == "system":
            notes.append(SYSTEM)
            continue
        last = turns[-1] if turns else {"role": "", "text": ""}
        text, inside = _content(value(fields, ("value", "text", "content")), role, last["text"])
        pictures += inside
        if last["role"] == role:
            last["text"] += "\n" + text
        else:
            turns.append({"role": role, "text": text})
    return turns, pictures


def _answered(turns: Turns, notes: list[str]) -> Turns:
    """Without a question at the end that nobody answers. RecordError where questions and answers are not in turn."""
    if len(turns) < 2:
        raise RecordError("caption", "a dialogue without an answer")
    if turns[0]["role"] != "user":
        raise RecordError("record", "the dialogue begins with an answer")
    if len(turns) % 2:
        notes.append(UNANSWERED)
        turns = turns[:-1]
    for turn in turns[1::2]:
        text = turn["text"]
        if not text or text.isspace():
            raise RecordError("caption", "an answer of the dialogue is empty")
        if IMAGE in text:
            notes.append(MARK_IN_ANSWER)
    return turns


def _content(content: Any, role: str, question: str) -> tuple[str, list[Picture]]:
    """A text, or parts as chat interfaces take them: {type: text} and {type: image}, of which each leaves a mark."""
    if isinstance(content, str):
        if role == "user":
            return marked(content)
        return "" if says_nothing(content, asked=True) else content, []
    if not isinstance(content, list):
        return answer_text(content, question) or "", []
    texts: list[str] = []
    pictures: list[Picture] = []
    for part in content:
        fields = part if isinstance(part, dict) else {"text": part}
        if "text" in fields and fields["text"] is not None:
            text, inside = _content(str(fields["text"]), role, question)
            texts.append(text)
            pictures += inside
            continue
        pictures += pictures_in(value(fields, ("image", "image_url", "path", "url")))
        texts.append(IMAGE)
    return "\n".join(texts), pictures
