"""Texts in both languages, and which of them a person reads."""

import locale
import os
from dataclasses import dataclass
from typing import Literal

Tongue = Literal["en", "zh"]


@dataclass(frozen=True, slots=True)
class Text:
    """The same in English and in Chinese, with the same numbers."""

    en: str
    zh: str

    def __add__(self, other: "Text") -> "Text":
        return Text(self.en + other.en, self.zh + other.zh)

    def of(self, language: Tongue) -> str:
        return self.zh if language == "zh" else self.en


NOTHING = Text("", "")


def fill(both: tuple[str, str], **values: object) -> Text:
    """English and Chinese with their values filled in; of a value that is a Text, each takes its own."""
    en, zh = (
        {name: value.of(language) if isinstance(value, Text) else value for name, value in values.items()}
        for language in ("en", "zh")
    )
    return Text(both[0].format(**en), both[1].format(**zh))


def of_computer() -> Tongue:
    """Chinese where the environment or the system is set to Chinese, else English."""
    named = [os.environ.get(name, "") for name in ("LC_ALL", "LC_MESSAGES", "LANG")]
    first = next((name for name in named if name), locale.getlocale()[0] or "")
    return "zh" if first.lower().startswith(("zh", "chinese")) else "en"
