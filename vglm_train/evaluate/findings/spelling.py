"""Misspelt English words: one letter that is wrong, missing, too many, or swapped with the next one."""

import re
from functools import lru_cache

SHORTEST = 7  # letters of a word that may be misspelt: shorter ones are too like others
WORD = re.compile(r"[a-z]{6,}")


def mend_spelling(text: str, words: tuple[str, ...]) -> str:
    """Lower-case `text` with its misspelt words as one of `words` begins."""
    return WORD.sub(lambda match: _mended(match[0], words), text)


@lru_cache(maxsize=65536)
def _mended(word: str, words: tuple[str, ...]) -> str:
    if word.startswith(words):
        return word
    for known in words:
        if len(known) >= SHORTEST:
            for length in (len(known), len(known) + 1, len(known) - 1):
                if word[0] == known[0] and len(word) >= length and is_one_off(word[:length], known):
                    return known + word[length:]
    return word


def is_one_off(word: str, known: str) -> bool:
    """Whether one letter is wrong, missing, too many, or two neighbours are swapped."""
    if word == known:
        return False
    start = next((n for n, (a, b) in enumerate(zip(word, known)) if a != b), min(len(word), len(known)))
    rest, other = word[start:], known[start:]
    if len(word) == len(known):
        return rest[1:] == other[1:] or (rest[:2] == other[1::-1] and rest[2:] == other[2:])
    longer, shorter = (rest, other) if len(word) > len(known) else (other, rest)
    return len(word) - len(known) in (1, -1) and longer[1:] == shorter
