"""Which language a text is in, told from its letters."""

import re

_IDEOGRAPHS = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
IDEOGRAPH = re.compile(f"[{_IDEOGRAPHS}]")
WORD = re.compile(rf"[^\W\d_{_IDEOGRAPHS}]+")


def detect_language(text: str) -> str:
    """`zh` where there are at least as many ideographs as words of letters, else `en`.

    "穿T恤的人" is Chinese; "a sign that says 中国" is English.
    """
    if text.isascii():
        return "en"
    ideographs = len(IDEOGRAPH.findall(text))
    return "zh" if ideographs and ideographs >= len(WORD.findall(text)) else "en"
