"""Chinese or not, told from the characters of a text."""

import re

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"  # ideographs, for a character class

_IDEOGRAPH = re.compile(f"[{HAN}]")
_WORD = re.compile(f"[^\\W\\d_{HAN}]+")


def is_chinese(text: str) -> bool:
    """At least as many ideographs as words of other letters."""
    ideographs = len(_IDEOGRAPH.findall(text))
    return ideographs > 0 and ideographs >= len(_WORD.findall(text))
