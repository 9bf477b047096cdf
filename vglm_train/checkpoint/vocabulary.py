"""The words of a run's tokenizers by their ids. Weights know words by ids alone, so an id must keep its word.

RUN/vocabularies/DIGEST.json    a list of words; a checkpoint names the digests of those that it was trained with
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from vglm_train.errors import UserError
from vglm_train.files import write_json

FOLDER = "vocabularies"
EXAMPLES = 3  # ids that a message names


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`words[id]`, added and special tokens among them, of the tokenizer at `path`; "" where an id has no word."""

    path: str
    words: Sequence[str]

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(list(self.words)).encode()).hexdigest()[:16]


def keep(run: Path, vocabularies: Mapping[str, Vocabulary]) -> None:
    """Write the words of this start into the run folder, for messages of later ones."""
    (run / FOLDER).mkdir(exist_ok=True)
    for vocabulary in vocabularies.values():
        file = run / FOLDER / f"{vocabulary.digest}.json"
        if not file.exists():
            write_json(file, list(vocabulary.words))


def check_words(
    run: Path, checkpoint: str, before: Mapping[str, str], now: Mapping[str, Vocabulary], accept: str
) -> list[str]:
    """Lines about vocabularies that have only become longer. `before`: configuration key -> digest, of `checkpoint`.

    UserError where an id has another word than it had, whatever is accepted; `accept` is the name of that option.
    """
    lines = []
    for key, vocabulary in now.items():
        if before.get(key, vocabulary.digest) == vocabulary.digest:
            continue
        old, new = _read(run / FOLDER / f"{before[key]}.json"), vocabulary.words
        if old and list(new[: len(old)]) == old:
            lines.append(
                f"{key}: {vocabulary.path} has {len(new):,} words, {len(old):,} when {checkpoint} was written; those "
                "that it had keep their ids"
            )
            continue
        raise UserError(
            f"{key}: {vocabulary.path} is another vocabulary than {checkpoint} was trained with. "
            f"{_differences(old, new)} The trained weights know words by their ids, so nothing can go on from them "
            f"with it, {accept} neither. Bring back the file as it was, or begin a new run with this one: give another "
            "run.name or run.folder."
        )
    return lines


def _differences(old: Sequence[str] | None, new: Sequence[str]) -> str:
    """In sentences."""
    count = f"{len(new):,}, added ones included"
    if old is None:
        return f"It has {count}; the former words are not in the run folder any more."
    pairs = list(enumerate(zip_longest(old, new)))
    moved = [(number, was, is_now) for number, (was, is_now) in pairs if was is not None and was != is_now]
    shown = ", ".join(f"{number} was {_quoted(was)} and is {_quoted(word)}" for number, was, word in moved[:EXAMPLES])
    more = ", ..." if len(moved) > EXAMPLES else ""
    ids = f"{len(moved):,} ids mean" if len(moved) > 1 else "1 id means"
    return f"It had {len(old):,} words and has {count}; {ids} something else now: {shown}{more}."


def _quoted(word: str | None) -> str:
    return "no word" if not word else json.dumps(word, ensure_ascii=False)


def _read(file: Path) -> list[str] | None:
    try:
        words: list[str] | None = json.loads(file.read_text("utf-8"))
        return words
    except (OSError, ValueError):
        return None
