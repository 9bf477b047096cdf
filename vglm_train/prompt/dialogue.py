"""What is said about pictures, and where in it they stand."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

IMAGE = "<image>"  # in a question: a picture stands here (LLaVA's mark)


@dataclass(frozen=True, slots=True)
class Turn:
    """A question about the pictures that has its answer."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """The question to be answered, the turns before it, and the answer where it is known.

    A picture stands where a question holds IMAGE, in their order. Without any mark all stand before the first question.
    """

    question: str  # empty: nothing is asked, the picture alone is described
    answer: str | None
    history: tuple[Turn, ...] = ()  # oldest first
    language: str = "en"
    images: int | None = None  # pictures there are; None: as many as marks, and one where there is no mark


class EmptyAnswer(ValueError):  # noqa: N818  (says what was found)
    """A dialogue to learn from whose answer holds no text."""


class ImageMarkMismatch(ValueError):  # noqa: N818
    """A dialogue whose marks are not as many as its pictures."""


@dataclass(frozen=True, slots=True)
class ImageTurn:
    """A turn without marks: `images` are the places of its pictures in the question, in characters, ascending."""

    question: str
    images: tuple[int, ...] = ()
    answer: str = ""  # empty for the question that is to be answered

    @property
    def leading(self) -> int:
        """Pictures that stand before all words."""
        return sum(place == 0 for place in self.images)

    def around(self, before: str, behind: str) -> list[str]:
        """The texts around the pictures, one more than these; `before` stands between leading pictures and words."""
        edges = [0, *self.images[self.leading :], len(self.question)]
        first, *others = [self.question[start:end] for start, end in pairwise(edges)]
        texts = [*[""] * self.leading, before + first, *others]
        return [*texts[:-1], texts[-1] + behind]

    def cut(self, length: int) -> "ImageTurn":
        """The first `length` characters of the question, with all its pictures."""
        images = tuple(min(place, length) for place in self.images)
        return replace(self, question=self.question[:length], images=images)


def place_images(dialogue: Dialogue) -> list[ImageTurn]:
    """The turns with their pictures, oldest first; the last is the question.

    ImageMarkMismatch where there are more or fewer marks than pictures.

    Blanks before a mark go with it, and behind one that leads a question.
    """
    asked = [(turn.question, turn.answer) for turn in dialogue.history]
    turns = [_image_turn(question, answer) for question, answer in [*asked, (dialogue.question, "")]]
    marks = sum(len(turn.images) for turn in turns)
    images = dialogue.images if dialogue.images is not None else max(marks, 1)
    if marks not in (0, images):
        raise ImageMarkMismatch(f"{marks} {IMAGE} mark{'s' * (marks != 1)} for {images} picture{'s' * (images != 1)}")
    return turns if marks else [replace(turns[0], images=(0,) * images), *turns[1:]]


def without_oldest(turns: Sequence[ImageTurn], number: int) -> list[ImageTurn]:
    """The turns but for the first `number`, whose pictures go before the first question that is left.

    They stay because a later question may be about them.
    """
    homeless = sum(len(turn.images) for turn in turns[:number])
    first, *rest = turns[number:]
    return [replace(first, images=(0,) * homeless + first.images), *rest]


def _image_turn(question: str, answer: str) -> ImageTurn:
    first, *others = question.split(IMAGE)
    if not others:
        return ImageTurn(question, (), answer)
    text, images = first.lstrip(), []
    for part in others:
        text = text.rstrip(" ")
        images.append(len(text))
        text += part if text else part.lstrip()
    return ImageTurn(text, tuple(images), answer)
