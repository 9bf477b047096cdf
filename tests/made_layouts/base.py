"""What a made-up layout is, and what its rows say."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from made_shards import jpeg

Said = tuple[Any, ...]  # split or None, numbers of the pictures, "caption" and text, or "turns" and texts


@dataclass(frozen=True)
class Made:
    """`table`: the file or folder; `options`: of its source, besides; `said`: what its rows say, each caption by
    itself; `rows`, `bad`: how many there are, and of them that cannot be used."""

    table: Path
    said: list[Said]
    rows: int
    options: dict[str, Any] = field(default_factory=dict)
    bad: int = 0


def caption(split: str | None, picture: int, text: str) -> Said:
    return (split, (picture,), "caption", text)


def asked(split: str | None, picture: int, question: str, answer: str) -> Said:
    return (split, (picture,), "turns", question, answer)


def put(folder: Path, *numbers: int, name: str = "{}.jpg") -> None:
    """Pictures as files."""
    for number in numbers:
        path = folder / name.format(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
