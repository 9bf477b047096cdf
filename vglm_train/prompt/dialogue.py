"""What is said about one picture."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Turn:
    """A question about the picture that has its answer."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """The question to be answered, the turns before it, and the answer where it is known."""

    question: str  # empty: nothing is asked, the picture alone is described
    answer: str | None
    history: tuple[Turn, ...] = ()  # oldest first
    language: str = "en"


class EmptyAnswer(ValueError):  # noqa: N818  (says what was found)
    """A dialogue to learn from whose answer holds no text."""
