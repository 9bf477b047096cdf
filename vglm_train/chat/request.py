"""What is asked of the scheduler, what comes back, and its bounds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from vglm_train.config.language import Decoding
from vglm_train.config.validation import positive
from vglm_train.errors import UserError
from vglm_train.prompt.template import Encoded

Reason = Literal["end", "length", "stop", "cancelled", "deadline"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bounds of one scheduler. Tokens are of the language model, those of pictures included."""

    rows: int = 32  # requests that are decoded at once
    queue: int = 256  # requests that wait
    prompt: int = 8192  # tokens of a prompt
    new: int = 2048  # tokens of an answer
    cached: int = 131072  # tokens in the cache: rows times the longest prompt and answer that was promised
    step: int = 4096  # tokens of prompts that are read between two steps of those that run; one prompt always is
    seconds: float = 600.0  # from asking to the end of the answer

    def __post_init__(self) -> None:
        positive(self, "rows", "queue", "prompt", "new", "cached", "step", "seconds")


class Busy(UserError):  # noqa: N818  (it is no mistake: it passes)
    """The queue is full. Ask again after `retry_after` seconds."""

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(f"{waiting} requests are waiting, as many as may; ask again in {retry_after:.0f} s.")
        self.retry_after = retry_after


class Closed(UserError):  # noqa: N818
    """The model is being shut down."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A prompt with its pictures, and how it is answered. `decoding.seed` decides a sampled answer alone."""

    prompt: Encoded
    pixels: Tensor  # [k,3,h,w] uint8, a picture for each of the prompt's places
    names: tuple[int, ...]  # content hashes of the pictures
    decoding: Decoding
    stops: tuple[str, ...] = ()
    seconds: float | None = None  # shorter than Limits.seconds

    @property
    def length(self) -> int:
        """Tokens that it may come to."""
        return len(self.prompt.input_ids) + self.decoding.max_new


@dataclass(frozen=True, slots=True)
class Answer:
    """The last thing that a request gets."""

    text: str
    reason: Reason
    prompt_tokens: int
    new_tokens: int  # without the end token


Event = str | Answer | Exception  # a piece of text; then either the answer or why there is none
Put = Callable[[Event], None]  # called by the scheduler's thread; it must not wait
"""Where the events of a request go."""
