"""Captions as text: their language, and how long they are."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from vglm_train.config.data import Language
from vglm_train.data.record import RecordError, parse
from vglm_train.errors import UserError
from vglm_train.prompt.dialogue import is_chinese

LANGUAGES: tuple[str, ...] = get_args(Language)


def detect_language(caption: str) -> str:
    """`zh` where there are at least as many ideographs as words of letters, else `en`.

    "穿T恤的人" is Chinese; "a sign that says 中国" is English.
    """
    return "zh" if is_chinese(caption) else "en"


def caption_length(caption: str, language: str) -> int:
    """Words of an English caption, characters of a Chinese one."""
    return len("".join(caption.split())) if language == "zh" else len(caption.split())


def captions(records: Path, split: str | None) -> Iterator[tuple[str, str]]:
    """(language, caption) of every record of the split; a record that cannot be read is a UserError with its line."""
    if not records.is_file():
        raise UserError(f"{records}: no such file; make it with vglm data convert")
    with open(records, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                record = parse(line)
            except RecordError as error:
                raise UserError(f"{records}: line {number}: {error}; run vglm data convert again") from None
            if split in (None, record.split):
                for language, texts in record.captions.items():
                    yield from ((language, text) for text in texts)
