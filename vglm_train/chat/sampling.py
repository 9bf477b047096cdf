"""How an answer is written, as programs and commands say it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypedDict

from vglm_train.config.language import CHAT, Decoding
from vglm_train.config.validation import Range, check_range

DECODING = ("max_new", "sample", "temperature", "top_p", "top_k", "repetition_penalty", "seed")
COLDEST = 1e-3  # logits that are divided by far less are infinite: no token would be the likeliest
BOUNDS = {
    "temperature": Range(least=0, most=100),
    "repetition_penalty": Range(least=0.01, most=10),
    "seed": Range(least=0, below=2**63),
}


class Sampling(TypedDict, total=False):
    """How an answer is written; what is not given is VisualGLM's (`config.language.CHAT`)."""

    max_new: int
    sample: bool  # False: always the likeliest token
    temperature: float  # 0, or below COLDEST: as sample False
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
    for name, limit in BOUNDS.items():
        if name in changes:
            check_range(name, changes[name], limit)
    if changes.get("temperature", COLDEST) < COLDEST:
        changes |= {"temperature": CHAT.temperature, "sample": False}
    return replace(CHAT, **changes)
