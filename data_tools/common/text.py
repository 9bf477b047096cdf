"""Captions as text: their language, and how long they are."""

from typing import get_args

from vglm_train.config.data import Language
from vglm_train.prompt.chinese import is_chinese

LANGUAGES: tuple[str, ...] = get_args(Language)


def detect_language(caption: str) -> str:
    """`zh` where there are at least as many ideographs as words of letters, else `en`.

    "穿T恤的人" is Chinese; "a sign that says 中国" is English.
    """
    return "zh" if is_chinese(caption) else "en"


def caption_length(caption: str, language: str) -> int:
    """Words of an English caption, characters of a Chinese one."""
    return len("".join(caption.split())) if language == "zh" else len(caption.split())
