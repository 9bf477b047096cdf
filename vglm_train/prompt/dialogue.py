"""Dialogues about images: their turns, their language, and where in the questions the images are."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

IMAGE = "<image>"  # marks in a question where an image is (LLaVA's mark)
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"  # ideographs, for a character class

_IDEOGRAPH = re.compile(f"[{HAN}]")
_WORD = re.compile(f"[^\\W\\d_{HAN}]+")


def is_chinese(text: str) -> bool:
    """Whether a text has at least as many ideographs as words of other letters."""
    ideographs = len(_IDEOGRAPH.findall(text))
    return ideographs > 0 and ideographs >= len(_WORD.findall(text))


@dataclass(frozen=True, slots=True)
class Turn:
    """A question about the images, with its answer."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A question, the turns before it, and its answer if that is known.

    An image is wherever a question holds IMAGE, in their order. Without any mark all images precede the first question.
    """

    question: str  # empty: the images alone are described
    answer: str | None
    history: tuple[Turn, ...] = ()  # oldest first
    language: str = "en"
    images: int | None = None  # number of images; None: as many as marks, and one if there is no mark


class EmptyAnswer(ValueError):  # noqa: N818  (the name says what is wrong)
    """A dialogue to learn from has an answer without text."""


class ImageMarkMismatch(ValueError):  # noqa: N818
    """A dialogue has another number of marks than of images."""


@dataclass(frozen=True, slots=True)
class ImageTurn:
    """A turn without marks. `image_offsets`: where in the question its images are, in characters, ascending."""

    question: str
    image_offsets: tuple[int, ...] = ()
    answer: str = ""  # empty in the last turn, whose answer the model gives

    @property
    def leading_images(self) -> int:
        """Number of images before all words."""
        return sum(offset == 0 for offset in self.image_offsets)

    def texts_around_images(self, before: str, after: str) -> list[str]:
        """The texts before, between and after the images: one more than images.

        `before` is put between the leading images and the first word, `after` at the end.
        """
        edges = [0, *self.image_offsets[self.leading_images :], len(self.question)]
        first, *others = [self.question[start:end] for start, end in pairwise(edges)]
        texts = [*[""] * self.leading_images, before + first, *others]
        return [*texts[:-1], texts[-1] + after]

    def truncated(self, length: int) -> "ImageTurn":
        """The first `length` characters of the question, with all its images."""
        offsets = tuple(min(offset, length) for offset in self.image_offsets)
        return replace(self, question=self.question[:length], image_offsets=offsets)


def image_turns(dialogue: Dialogue) -> list[ImageTurn]:
    """The turns with the offsets of their images, oldest first; the last one is the dialogue's own question.

    Spaces before a mark are removed with it, and those after a mark that leads a question.
    ImageMarkMismatch if there are more or fewer marks than images.
    """
    history = [(turn.question, turn.answer) for turn in dialogue.history]
    turns = [_image_turn(question, answer) for question, answer in [*history, (dialogue.question, "")]]
    marks = sum(len(turn.image_offsets) for turn in turns)
    images = dialogue.images if dialogue.images is not None else max(marks, 1)
    check_marks(marks, images)
    return turns if marks else [replace(turns[0], image_offsets=(0,) * images), *turns[1:]]


def check_marks(marks: int, images: int) -> None:
    """ImageMarkMismatch if the questions of a dialogue have marks, but more or fewer than there are images."""
    if marks not in (0, images):
        raise ImageMarkMismatch(f"{marks} {IMAGE} mark{'s' * (marks != 1)} for {images} picture{'s' * (images != 1)}")


def without_oldest(turns: Sequence[ImageTurn], number: int) -> list[ImageTurn]:
    """The turns without the first `number`. The images of these move before the first question that is left.

    They stay because a later question may be about them.
    """
    orphaned = sum(len(turn.image_offsets) for turn in turns[:number])
    first, *rest = turns[number:]
    return [replace(first, image_offsets=(0,) * orphaned + first.image_offsets), *rest]


def _image_turn(question: str, answer: str) -> ImageTurn:
    first, *others = question.split(IMAGE)
    if not others:
        return ImageTurn(question, (), answer)
    text, offsets = first.lstrip(), []
    for part in others:
        text = text.rstrip(" ")
        offsets.append(len(text))
        text += part if text else part.lstrip()
    return ImageTurn(text, tuple(offsets), answer)
