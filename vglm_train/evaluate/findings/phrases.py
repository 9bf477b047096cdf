"""Phrases of a findings table as regular expressions.

A phrase is what a person writes, not a regular expression: `*` is any ending of a word, `...` a few words between,
`(a|b)` either of them, `(a|)` perhaps, and a full stop at the end says that nothing may follow in the same part of the
sentence. A blank is white space or a hyphen; a hyphen may be missing.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

HAN = "\u3400-\u9fff"
GAPS = {"en": r"\b[^.;:,\n]{0,40}?\b", "zh": r"[^,。;:\n]{0,8}?"}
EXPRESSION = re.compile(r"[\\[\]{}^$+]|(?<!\.\.)\.[*?]|\S\?")  # signs that a phrase never needs
TOKEN = re.compile(r"\s*\.\.\.\s*|\(|\)|\||\*|\s+|-|[^\s()|*-]")


class PhraseError(ValueError):
    """What is wrong with a phrase, in words."""


@dataclass(frozen=True, slots=True)
class Patterns:
    """Phrases of one meaning."""

    solid: re.Pattern[str] | None  # without a gap
    gapped: re.Pattern[str] | None  # with `...`

    def spans(self, text: str) -> list[tuple[int, int, bool]]:
        """(start, end, whether it has no gap) of every place in `text`, an empty list for no pattern."""
        found = []
        for pattern, is_solid in ((self.solid, True), (self.gapped, False)):
            if pattern is not None:
                found += [(match.start(), match.end(), is_solid) for match in pattern.finditer(text)]
        return found


def compile_phrases(phrases: Iterable[str], language: str) -> Patterns:
    """All phrases as at most two patterns. PhraseError for one that cannot be read."""
    solid: list[str] = []
    gapped: list[str] = []
    for phrase in sorted(phrases, key=len, reverse=True):  # of two that begin alike, the longer one is tried first
        (gapped if "..." in phrase else solid).append(expression(phrase, language))
    return Patterns(*(re.compile("|".join(each)) if each else None for each in (solid, gapped)))


def expression(phrase: str, language: str) -> str:
    """One phrase as a regular expression over lower-case text. PhraseError if it cannot be read."""
    body = phrase.strip().lower()
    if sign := EXPRESSION.search(body):
        raise PhraseError(
            f"{sign[0]!r} is of regular expressions, and a phrase is none; write *: any ending of a word, ...: a few "
            "words between, (a|b): either of them, (a|): perhaps"
        )
    closing = body.endswith(".") and not body.endswith("...")
    parts, depth = [], 0
    for token in TOKEN.findall(body[:-1] if closing else body):
        depth += (token == "(") - (token == ")")
        if depth < 0 or (token == "|" and not depth):
            raise PhraseError(f"{token!r} stands outside of brackets; write (a|b)")
        parts.append(_translated(token, language))
    if depth:
        raise PhraseError("a bracket is not closed; write (a|b)")
    found = "".join(parts)
    if not re.search(rf"[a-z0-9{HAN}?]", body):
        raise PhraseError("it has no word")
    if re.fullmatch(found, "") is not None:
        raise PhraseError("it would be found everywhere")
    before, after = (r"(?<![a-z0-9])" if _is_letter(body.lstrip("(")[0]) else ""), ""
    if closing:
        after = r"(?=\s*(?:[.,;:!?。)]|$))"
    elif _is_letter(body.rstrip(")")[-1:]):
        after = r"(?![a-z0-9])"
    return f"{before}(?:{found}){after}"


def _translated(token: str, language: str) -> str:
    if "..." in token:
        return GAPS[language]
    if token.isspace():
        return r"[\s-]+" if language == "en" else r"\s*"
    fixed = {"(": "(?:", ")": ")", "|": "|", "*": r"\w*", "-": r"[\s-]?"}
    return fixed.get(token) or re.escape(token)


def _is_letter(character: str) -> bool:
    return character.isascii() and character.isalnum()
