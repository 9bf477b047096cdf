"""A conversation: turns with their pictures, and the dialogue that a prompt is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from vglm_train.chat.images import Picture
from vglm_train.errors import UserError
from vglm_train.prompt.dialogue import IMAGE, Dialogue, Turn


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """A question with its answer, and the pictures that came with the question."""

    question: str
    answer: str
    images: tuple[Picture, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For JSON; of the pictures only paths can be written. TypeError for another kind."""
        if any(isinstance(image, bytes) or (not hasattr(image, "__fspath__") and not isinstance(image, str))
               for image in self.images):  # fmt: skip
            raise TypeError("a picture that is no path cannot be written as JSON; keep it beside the history")
        return {"question": self.question, "answer": self.answer, "images": [str(image) for image in self.images]}


History = Sequence[ChatTurn | Mapping[str, Any] | Sequence[str]]
"""Turns, oldest first: `ChatTurn`s, what `as_json` gives, or pairs of question and answer as VisualGLM has them."""


def as_images(images: Picture | Sequence[Picture] | None) -> tuple[Picture, ...]:
    """One picture, several or none -> a tuple."""
    if images is None:
        return ()
    return tuple(images) if isinstance(images, list | tuple) else (cast(Picture, images),)


def read_history(history: History | None) -> list[ChatTurn]:
    """UserError that names the turn that is none."""
    turns = []
    for number, entry in enumerate(history or [], 1):
        try:
            turns.append(_turn(entry))
        except (TypeError, KeyError, ValueError):
            raise UserError(
                f"history, turn {number}: must be a pair of question and answer, or an object with question, answer "
                f"and images; found {str(entry)[:60]!r}."
            ) from None
    return turns


def names_pictures(history: History | None) -> bool:
    """Whether the turns say what was shown, even if nothing was. VisualGLM's pairs do not."""
    return any(isinstance(turn, ChatTurn) or (isinstance(turn, Mapping) and "images" in turn) for turn in history or [])


def _turn(entry: ChatTurn | Mapping[str, Any] | Sequence[str]) -> ChatTurn:
    if isinstance(entry, ChatTurn):
        return entry
    if isinstance(entry, Mapping):
        question, answer, images = entry["question"], entry["answer"], as_images(entry.get("images"))
    else:
        if isinstance(entry, str):
            raise TypeError
        (question, answer), images = entry, ()
    if not isinstance(question, str) or not isinstance(answer, str):
        raise TypeError
    return ChatTurn(question, answer, images)


def dialogue_of(turns: Sequence[ChatTurn], query: str, images: int, language: str) -> Dialogue:
    """The last question `query` with its `images` pictures, after `turns`. A mark that a person typed is only text."""
    history = tuple(Turn(_marked(turn.question, len(turn.images)), turn.answer) for turn in turns)
    total = images + sum(len(turn.images) for turn in turns)
    return Dialogue(_marked(query, images), None, history, language, total)


def _marked(question: str, images: int) -> str:
    return IMAGE * images + question.strip().replace(IMAGE, "<image >")
