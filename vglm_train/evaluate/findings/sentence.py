"""What one sentence says of the findings that it names.

A cue before a finding reaches it from the same part of the sentence. English parts end at commas, colons, "and" and
"with", Chinese ones at commas and colons. A cue reaches on into the next part ("no effusion, pneumothorax or
consolidation") unless that is a statement of its own: it has a verb of the table ("no effusion, and the heart is
enlarged"), or stands after "but". A Chinese part is always one, unless it begins with 及, 或 and the like. A cue after
a finding reaches back over "and" and "or" ("effusion and pneumothorax are not seen"), and over a comma from a part that
begins with it and names no finding ("effusion, now resolved"). The cue after a finding counts before those in front of
it, and of these the nearest, but "no lesion suspicious for cancer" denies the cancer.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from vglm_train.evaluate.findings.phrases import Patterns
from vglm_train.evaluate.findings.sides import Side, Span, sides_of
from vglm_train.evaluate.findings.table import SIDES, FindingsTable, Rules

State = Literal["present", "absent", "uncertain"]
BEFORE: dict[str, State | None] = {"negation": "absent", "uncertain": "uncertain", "not stated": None}
AFTER: dict[str, State] = {"negation after": "absent", "uncertain after": "uncertain"}
OTHER = ("not a cue", "new statement")
CUT = {"en": re.compile(r"[,:]|\b(?:and|with)\b|\s-\s"), "zh": re.compile(r"[,:]")}
# "No consolidation, effusion or pneumothorax is seen": the last of a list that is denied as a whole, with a verb
END_OF_LIST = re.compile(
    r"\b(?:or|nor)\b.*\b(?:seen|identified|noted|present|detected|visible|visuali[sz]ed|evident|appreciated|demonstrated"
    r"|found|suspected)\W*$"
)
OF_ITSELF = re.compile(r"\b(?:there|increased|decreased|stable|unchanged|new)\b")
BEGINS = {"absent": {"en": 25, "zh": 5}, "uncertain": {"en": 1, "zh": 0}}  # characters before a cue that begins a part


class Mention(NamedTuple):
    """What a text says of one finding."""

    state: State
    side: Side | None = None


@dataclass(frozen=True, slots=True)
class Named:
    """A finding where a sentence names it."""

    span: Span
    solid: bool  # by a phrase without a gap, so that nothing within it is a cue
    normal: bool  # by a phrase that says that it is not there


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a sentence."""

    start: int
    end: int
    joined: str  # what stands before it: , : and with but; empty for the first one
    own: bool  # a statement of its own


def read_sentence(text: str, language: str, table: FindingsTable) -> Iterator[tuple[str, Mention]]:
    """(finding, what is said of it) for each time it is named; what is only asked for is left out.

    `text`: a sentence in lower case with plain signs.
    """
    rules = table.rules[language]
    named = _find(text, language, table)
    if not named or _is_elsewhere(text, rules.cues["sections"]):
        return
    sentence = _Sentence(text, language, rules, named)
    sided = {finding.name for finding in table.findings if finding.sided}
    places = _longest(_spans(rules.sides, SIDES, text), [])
    sides = sides_of(text, sentence.clauses(), [each.span for each in named], places, sentence.cues)
    for each in named:
        state = "absent" if each.normal else sentence.state(each.span)
        if state is not None:
            yield each.span.what, Mention(state, sides.get(each.span) if each.span.what in sided else None)


class _Sentence:
    """A sentence with its cues and parts."""

    def __init__(self, text: str, language: str, rules: Rules, named: Sequence[Named]) -> None:
        self.text, self.language, self.rules, self.named = text, language, rules, named
        solid = [each.span for each in named if each.solid]
        self.cues = _longest(_spans(rules.cues, (*BEFORE, *AFTER, *OTHER), text), solid)
        self.parts = self._split(solid)

    def state(self, span: Span) -> State | None:
        """What the cues that reach a finding say of it; None if it is only asked for."""
        number = max(n for n, part in enumerate(self.parts) if part.start <= span.start or n == 0)
        before, after = self._before(span, number), self._after(span, number)
        if after is not None:
            return AFTER[after.what]
        return "present" if before is None else BEFORE[before.what]

    def clauses(self) -> list[tuple[int, int]]:
        """(start, end) of what stands between commas."""
        clauses: list[tuple[int, int]] = []
        for part in self.parts:
            if clauses and part.joined in ("and", "with", "-"):
                clauses[-1] = clauses[-1][0], part.end
            else:
                clauses.append((part.start, part.end))
        return clauses

    def _split(self, solid: Sequence[Span]) -> list[Part]:
        whole = (*solid, *self.cues)
        cuts = [(m.start(), m.end(), m[0].strip()) for m in CUT[self.language].finditer(self.text)]
        cuts = [cut for cut in cuts if not any(span.start < cut[0] < span.end for span in whole)]
        cuts += [(cue.start, cue.end, "but") for cue in self.cues if cue.what == "new statement"]
        parts: list[Part] = []
        start, joined = 0, ""
        for cut_start, cut_end, sign in [*sorted(cuts), (len(self.text), len(self.text), "")]:
            if self.text[start:cut_start].strip() or not parts:
                own = self._is_own(self.text[start:cut_start].strip(), joined)
                parts.append(Part(start, cut_start, joined, own))
                joined = sign
            elif sign:
                joined = f"{joined} {sign}"  # ", and"
            start = cut_end
        return parts

    def _is_own(self, part: str, joined: str) -> bool:
        if "but" in joined or ":" in joined:
            return True
        if _begins(part, self.rules.cues["goes on with"]):
            return False
        if joined == "," and END_OF_LIST.search(part) and not OF_ITSELF.search(part):
            return False
        return self.language == "zh" or joined == ", with" or bool(self.rules.cues["verbs"].spans(part))

    def _before(self, span: Span, number: int) -> Span | None:
        """The cue before a finding that reaches it."""
        for n in range(number, -1, -1):
            part = self.parts[n]
            end = min(span.end, part.end) if n == number else part.end  # also one within the finding's gap
            cues = [cue for cue in self.cues if cue.what in BEFORE and part.start <= cue.start < end]
            if cues:
                denials = [cue for cue in cues if cue.what == "negation"]
                return denials[-1] if denials and cues[-1].what == "uncertain" else cues[-1]
            if part.own:
                return None
        return None

    def _after(self, span: Span, number: int) -> Span | None:
        """The cue after a finding that reaches back to it; none where another cue stands between."""
        for n in range(number, len(self.parts)):
            part = self.parts[n]
            if n > number and not self._reaches_back(part):
                return None
            cues = [cue for cue in self.cues if max(part.start, span.end) <= cue.start < part.end]
            if cue := next((cue for cue in cues if cue.what in BEFORE or cue.what in AFTER), None):
                same = (other for other in cues if other[:2] == cue[:2] and other.what in AFTER)  # it may be both
                return next(same, None)
            if n == number and self.language == "en" and part.own and self._has_verb(part):
                following = self.parts[n + 1 : n + 2]
                if following and self._names_finding(following[0]):
                    return None
        return None

    def _reaches_back(self, part: Part) -> bool:
        """Whether a cue in this part may be about a finding in the part before."""
        if "but" in part.joined or "with" in part.joined:
            return False
        if self._names_finding(part):
            lists = self.language == "en" and part.joined.endswith("and")
            return lists or _begins(self.text[part.start : part.end].strip(), self.rules.cues["goes on with"])
        cues = [cue for cue in self.cues if part.start <= cue.start < part.end and cue.what in AFTER]
        if not cues:
            return False
        return len(self.text[part.start : cues[0].start].strip()) <= BEGINS[AFTER[cues[0].what]][self.language]

    def _names_finding(self, part: Part) -> bool:
        return any(part.start <= each.span.start < part.end for each in self.named)

    def _has_verb(self, part: Part) -> bool:
        return bool(self.rules.cues["verbs"].spans(self.text[part.start : part.end]))


def _find(text: str, language: str, table: FindingsTable) -> list[Named]:
    """The findings that a sentence names. A phrase within a longer one does not count."""
    found: list[Named] = []
    for finding in table.findings:
        for normal, patterns in ((False, finding.stated), (True, finding.normal)):
            spans = patterns[language].spans(text)
            found += [Named(Span(start, end, finding.name), solid, normal) for start, end, solid in spans]
    if not found:
        return []
    masks = [Span(start, end, "") for start, end, _ in table.rules[language].no_finding.spans(text)]
    masks += [each.span for each in found if each.solid or each.normal]
    denied = {each.span[:2] for each in found if each.normal}
    return [
        each
        for each in found
        if not any(_holds(mask, each.span) for mask in masks) and (each.normal or each.span[:2] not in denied)
    ]


def _is_elsewhere(text: str, sections: Patterns) -> bool:
    """Whether the sentence begins with a heading of what is not about this picture."""
    head, colon, _ = text.lstrip(" \n#*-").partition(":")
    return bool(colon) and any(start == 0 and end == len(head.rstrip()) for start, end, _ in sections.spans(head))


def _begins(text: str, patterns: Patterns) -> bool:
    return any(start == 0 for start, _, _ in patterns.spans(text))


def _spans(patterns: Mapping[str, Patterns], names: Iterable[str], text: str) -> list[Span]:
    return [Span(start, end, name) for name in names for start, end, _ in patterns[name].spans(text)]


def _holds(longer: Span, span: Span) -> bool:
    """Whether a span lies within a longer one."""
    return longer.start <= span.start and span.end <= longer.end and longer.end - longer.start > span.end - span.start


def _longest(spans: Sequence[Span], masks: Sequence[Span]) -> list[Span]:
    """Those that lie neither within a longer one nor within a mask, in order."""
    return sorted(span for span in spans if not any(_holds(other, span) for other in (*spans, *masks)))
