"""On which side a finding is, by the words of side nearest to it.

A clause is what stands between commas. "Effusion on the right" takes the side after it, "right effusion" the one before
it; "right effusion and atelectasis" gives both the same. A clause that names a side and no finding belongs to the one
before it ("effusions, left greater than right"), or to the next one if it comes first ("on the right, an effusion").
"""

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Side = Literal["left", "right", "both"]
AFTER_A_FINDING = re.compile(r"^\W*(?:\w+\W+){0,4}?(?:on|in|at|within|of|to|involving|throughout|over)\s+(?:the\s+)?$")
DENIALS = ("negation", "negation after")
BEGINS = 6  # characters before a cue that begins a clause
MORE = re.compile(r"^(?:\s*[\w-]+){0,2}?\s*(?:and|&|/|or)\s*(?:the\s+|in\s+|on\s+)*$")


class Span(NamedTuple):
    """A piece of a text, and what it says."""

    start: int
    end: int
    what: str


def together(sides: Iterable[str | None]) -> Side | None:
    """Left and right are both; None where no side is named."""
    named = {side for side in sides if side is not None}
    if not named:
        return None
    return "both" if len(named) > 1 or "both" in named else "left" if "left" in named else "right"


def sides_of(
    text: str, clauses: Sequence[tuple[int, int]], findings: Sequence[Span], sides: Sequence[Span], cues: Sequence[Span]
) -> dict[Span, Side | None]:
    """Finding -> its side. A clause that begins with a cue of uncertainty is about what stands before it."""
    of_findings: dict[Span, Side | None] = {}
    waiting: list[Span] = []  # sides of clauses before the first finding
    last: list[Span] = []  # findings of the last clause that has any
    for start, end in clauses:
        own = sorted({span for span in findings if start <= span.start < end})
        named = [span for span in sides if start <= span.start < end]
        if own:
            found = _of_clause(text, own, named)
            if not any(found.values()):
                begins = any(cue.what == "uncertain" and start <= cue.start <= start + BEGINS for cue in cues)
                before = together(of_findings[span] for span in last) if begins else None
                found = dict.fromkeys(own, together(span.what for span in waiting) or before)
            of_findings |= found
            last, waiting = own, []
        elif any(cue.what in DENIALS and start <= cue.start < end for cue in cues):
            continue  # "the right lung is not affected"
        elif last:
            for span in last:
                of_findings[span] = together((of_findings[span], *(side.what for side in named)))
        else:
            waiting += named
    return of_findings


def _of_clause(text: str, own: Sequence[Span], named: Sequence[Span]) -> dict[Span, Side | None]:
    """The sides of the findings `own` of one clause, which names the sides `named`."""
    found, taken = _following(text, own, named)
    last: Side | None = None
    for span in own:
        before = _sides_before(span, own, named, taken)
        if before:
            found[span] = together(side.what for side in before)
        elif found[span] is None:
            found[span] = last  # "right effusion and atelectasis"
        last = found[span] or last
    if not any(found.values()):
        return dict.fromkeys(own, together(side.what for side in named))
    return found


def _following(text: str, own: Sequence[Span], named: Sequence[Span]) -> tuple[dict[Span, Side | None], set[Span]]:
    """(sides that follow their findings, those of `named` which do): "effusion on the right"."""
    found: dict[Span, Side | None] = dict.fromkeys(own)
    taken: set[Span] = set()
    for number, side in enumerate(named):
        before = [span for span in own if span.end <= side.start]
        if before and _follows(text, before[-1], side, named[number - 1] if number else None, taken, named[-1]):
            taken.add(side)
            for span in before:
                if span is before[-1] or (found[span] is None and not _sides_before(span, own, named, taken)):
                    found[span] = together((found[span], side.what))
    return found, taken


def _follows(text: str, finding: Span, side: Span, previous: Span | None, taken: set[Span], last: Span) -> bool:
    """Whether `side` belongs to the finding before it; `previous` and `last`: of the sides of the clause."""
    if previous is not None and finding.end <= previous.start:  # "on the right and left"
        return previous in taken and bool(MORE.match(text[previous.end : side.start]))
    return bool(AFTER_A_FINDING.match(text[finding.end : side.start])) or (side.what == "both" and side is last)


def _sides_before(span: Span, own: Sequence[Span], named: Sequence[Span], taken: set[Span]) -> list[Span]:
    """Sides between the finding before it and `span` that no other finding has taken."""
    since = max((other.end for other in own if other.end <= span.start), default=0)
    return [side for side in named if since <= side.start < span.start and side not in taken]
