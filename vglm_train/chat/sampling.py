"""How an answer is written, as programs and commands say it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypedDict

from vglm_train.config.language import CHAT, Decoding

DECODING = ("max_new", "sample", "temperature", "top_p", "top_k", "repetition_penalty", "seed")


class Sampling(TypedDict, total=False):
    """How an answer is written; what is not given is VisualGLM's (`config.language.CHAT`)."""

    max_new: int
    sample: bool  # False: always the likeliest token
    temperature: float  # 0: as sample False
    top_p: float
    top_k: int
    repetition_penalty: float
    seed: int
    stop: str | Sequence[str]  # texts that end an answer
    language: Literal["zh", "en"]  # of the words around the questions; None: that of the question
    seconds: float  # after which the answer is cut


def read_sampling(sampling: Sampling) -> Decoding:
    """VisualGLM's settings with these changes. FieldError, a UserError, for a value out of range."""
    changes: dict[str, Any] = {name: sampling[name] for name in DECODING if name in sampling}  # type: ignore[literal-required]
    if changes.get("temperature") == 0:
        changes |= {"temperature": CHAT.temperature, "sample": False}
    return replace(CHAT, **changes)
