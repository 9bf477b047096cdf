"""Which findings a chest report states, denies or doubts, and on which side: by the keywords of a table, sentence by
sentence.

A cue before a finding reaches it from the same part of the sentence. Parts end at commas and "and". A cue reaches over
them into the next part ("no effusion, pneumothorax or consolidation") unless that is a statement of its own: it has a
verb of the table ("no effusion, and the heart is enlarged"). Chinese parts end at commas alone and are all statements
of their own. A cue after a finding reaches back over what "and" or "or" joins, and over a comma from a part that begins
with it ("effusion, now resolved"). Of several cues the nearest counts.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from vglm_train.evaluate.findings.phrases import HAN, Patterns
from vglm_train.evaluate.findings.sides import Side, Span, sides_of, together
from vglm_train.evaluate.findings.spelling import mend_spelling
from vglm_train.evaluate.findings.table import NO_FINDING, SIDES, FindingsTable, Rules

State = Literal["present", "absent", "uncertain"]
BEFORE: dict[str, State | None] = {"negation": "absent", "uncertain": "uncertain", "not stated": None}
AFTER: dict[str, State] = {"negation after": "absent", "uncertain after": "uncertain"}
STRENGTH: tuple[State, ...] = ("present", "uncertain", "absent")  # which of several mentions of a finding counts
SENTENCE = re.compile(rf"(?<=[。!;\n])(?=.)|(?<=\?)(?=[\s{HAN}])|(?<=\.)(?<!\bvs\.)(?=\s)(?!\s+\d+\s*(?:cm|mm))")
PART = {"en": re.compile(r"[,:]|\b(?:and|with)\b|\s-\s"), "zh": re.compile(r"[,:]")}
LETTERS = {"en": re.compile("[a-z]{2}"), "zh": re.compile(f"[{HAN}]")}
BEGINS = {"absent": {"en": 25, "zh": 5}, "uncertain": {"en": 1, "zh": 0}}  # characters before a cue that begins a part


class Mention(NamedTuple):
    """What a text says of one finding."""

    state: State
    side: Side | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a sentence, within which cues reach every finding."""

    start: int
    end: int
    joined: str  # the sign or word before it: , : and with; empty for the first one
    own: bool  # a statement of its own: cues before it end here


def label(text: str, table: FindingsTable) -> dict[str, Mention]:
    """Finding -> what the text says of it; findings that it does not mention are left out.

    Of several mentions of one finding present counts before uncertain, and uncertain before absent. `no_finding` is
    left out where an abnormal finding is present or uncertain.
    """
    return dict(_label(text, _Known(table)))


class _Known:
    """A table as the key of a cache: two with one fingerprint are the same."""

    def __init__(self, table: FindingsTable) -> None:
        self.table = table

    def __hash__(self) -> int:
        return hash(self.table.fingerprint)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Known) and other.table.fingerprint == self.table.fingerprint


@lru_cache(maxsize=4096)
def _label(text: str, known: _Known) -> Mapping[str, Mention]:
    table = known.table
    mentions: dict[str, list[Mention]] = {}
    for language, rules in table.rules.items():
        plain = _plain(text, rules)
        if not LETTERS[language].search(plain):
            continue
        for sentence in SENTENCE.split(plain):
            for name, mention in _Sentence(sentence, language, table).mentions():
                mentions.setdefault(name, []).append(mention)
    for finding in table.findings:  # a part counts as the whole, too
        if finding.part_of is not None:
            mentions.setdefault(finding.part_of, []).extend(
                mention for mention in mentions.get(finding.name, ()) if mention.state != "absent"
            )
    found = {name: _strongest(each) for name, each in mentions.items() if each}
    if any(found[name].state != "absent" for name in table.abnormal() if name in found):
        found.pop(NO_FINDING, None)
    return found


def _plain(text: str, rules: Rules) -> str:
    """Lower case, plain signs, contractions as words, misspelt words mended."""
    plain = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    plain = plain.replace("can't", "cannot").replace("n't", " not")
    return mend_spelling(plain, rules.words)


def _strongest(mentions: Sequence[Mention]) -> Mention:
    state = min((mention.state for mention in mentions), key=STRENGTH.index)
    return Mention(state, together(mention.side for mention in mentions if mention.state == state))


class _Sentence:
    """One sentence in one language, with what was found in it."""

    def __init__(self, text: str, language: str, table: FindingsTable) -> None:
        rules = table.rules[language]
        self.text, self.language, self.table = text, language, table
        self.findings = list(self._find(rules))
        if not self.findings:
            return
        self.asked = bool(_heading(text, rules.cues["sections"]))
        solid = [span for span, is_solid, _ in self.findings if is_solid]
        self.cues = _longest(_spans(rules.cues, (*BEFORE, *AFTER, "not a cue", "new statement"), text), solid)
        self.sides = _longest(_spans(rules.sides, SIDES, text), [])
        self.parts = self._split(rules)

    def mentions(self) -> Iterator[tuple[str, Mention]]:
        """(finding, what is said of it) for each time it is named; what is only asked for is left out."""
        if not self.findings or self.asked:
            return
        sided = {finding.name for finding in self.table.findings if finding.sided}
        spans = [span for span, _, _ in self.findings]
        sides = sides_of(self.text, self._clauses(), spans, self.sides, self.cues)
        for span, _, normal in self.findings:
            state = "absent" if normal else self._state(span)
            if state is not None:
                yield span.what, Mention(state, sides.get(span) if span.what in sided else None)

    def _find(self, rules: Rules) -> Iterator[tuple[Span, bool, bool]]:
        """(where a finding is named, whether without a gap, whether as not there); a longer phrase wins."""
        found: list[tuple[Span, bool, bool]] = []
        for finding in self.table.findings:
            for normal, patterns in ((False, finding.stated), (True, finding.normal)):
                found += [
                    (Span(start, end, finding.name), solid, normal)
                    for start, end, solid in patterns[self.language].spans(self.text)
                ]
        if not found:
            return
        masks = [Span(start, end, "") for start, end, _ in rules.no_finding.spans(self.text)]
        masks += [span for span, solid, normal in found if solid or normal]
        denied = {span[:2] for span, _, normal in found if normal}
        for span, solid, normal in found:
            if not any(_holds(mask, span) for mask in masks) and (normal or span[:2] not in denied):
                yield span, solid, normal

    def _split(self, rules: Rules) -> list[Part]:
        """The parts; those after "but" and the like are statements of their own."""
        cuts = [(m.start(), m.end(), m[0].strip()) for m in PART[self.language].finditer(self.text)]
        solid = [span for span, is_solid, _ in self.findings if is_solid]
        cuts = [cut for cut in cuts if not any(s.start < cut[0] < s.end for s in (*solid, *self.cues))]
        cuts += [(cue.start, cue.end, "but") for cue in self.cues if cue.what == "new statement"]
        parts, start, joined = [], 0, ""
        for cut_start, cut_end, sign in [*sorted(cuts), (len(self.text), len(self.text), "")]:
            if self.text[start:cut_start].strip() or not parts:
                parts.append(Part(start, cut_start, joined, self._is_own(start, cut_start, joined, rules)))
                joined = sign
            elif sign:
                joined = f"{joined} {sign}"  # ", and"
            start = cut_end
        return parts

    def _is_own(self, start: int, end: int, joined: str, rules: Rules) -> bool:
        if "but" in joined or ":" in joined:
            return True
        part = self.text[start:end].strip()
        goes_on = any(at == 0 for at, _, _ in rules.cues["goes on with"].spans(part))
        if goes_on:
            return False
        if self.language == "zh":
            return True
        return joined == ", with" or bool(rules.cues["verbs"].spans(part))

    def _part_of(self, span: Span) -> int:
        return max(n for n, part in enumerate(self.parts) if part.start <= span.start or n == 0)

    def _state(self, span: Span) -> State | None:
        """The state by the cue that reaches a finding; None if it is only asked for."""
        number = self._part_of(span)
        before, after = self._before(span, number), self._after(span, number)
        if after is not None:
            return AFTER[after.what]
        return "present" if before is None else BEFORE[before.what]

    def _before(self, span: Span, number: int) -> Span | None:
        for n in range(number, -1, -1):
            part = self.parts[n]
            end = span.end if n == number else part.end
            own = [cue for cue in self.cues if cue.what in BEFORE and part.start <= cue.start < min(end, part.end)]
            if own:
                denied = [cue for cue in own if cue.what == "negation"]  # "no lesion suspicious for cancer"
                return denied[-1] if denied and own[-1].what == "uncertain" else own[-1]
            if part.own:
                return None
        return None

    def _after(self, span: Span, number: int) -> Span | None:
        for n in range(number, len(self.parts)):
            part = self.parts[n]
            if n > number and not self._reaches_back(part):
                return None
            cues = [cue for cue in self.cues if max(part.start, span.end) <= cue.start < part.end]
            if cue := next((cue for cue in cues if cue.what in BEFORE or cue.what in AFTER), None):
                same = (other for other in cues if other[:2] == cue[:2] and other.what in AFTER)  # it may be both
                return next(same, None)
            if n == number and part.own and self.language == "en" and self._has_verb(part):
                follows = self.parts[n + 1 : n + 2]
                if follows and self._holds_finding(follows[0]):
                    return None
        return None

    def _reaches_back(self, part: Part) -> bool:
        """Whether a cue in this part may be about a finding in the part before."""
        if "but" in part.joined or "with" in part.joined:
            return False
        if self._holds_finding(part):
            return self.language == "en" and part.joined.endswith("and") or self._starts_with_or(part)
        cues = [cue for cue in self.cues if part.start <= cue.start < part.end and cue.what in AFTER]
        if not cues:
            return False
        return len(self.text[part.start : cues[0].start].strip()) <= BEGINS[AFTER[cues[0].what]][self.language]

    def _starts_with_or(self, part: Part) -> bool:
        joins = self.table.rules[self.language].cues["goes on with"]
        return any(at == 0 for at, _, _ in joins.spans(self.text[part.start : part.end].strip()))

    def _holds_finding(self, part: Part) -> bool:
        return any(part.start <= span.start < part.end for span, _, _ in self.findings)

    def _has_verb(self, part: Part) -> bool:
        return bool(self.table.rules[self.language].cues["verbs"].spans(self.text[part.start : part.end]))

    def _clauses(self) -> list[tuple[int, int]]:
        """(start, end) of what stands between commas."""
        clauses: list[tuple[int, int]] = []
        for part in self.parts:
            if clauses and part.joined in ("and", "with", "-"):
                clauses[-1] = clauses[-1][0], part.end
            else:
                clauses.append((part.start, part.end))
        return clauses


def _heading(text: str, sections: Patterns) -> bool:
    """Whether the sentence begins with a heading of what is not about this picture."""
    head, colon, _ = text.lstrip(" \n#*-").partition(":")
    return bool(colon) and any(start == 0 and end == len(head.rstrip()) for start, end, _ in sections.spans(head))


def _spans(patterns: Mapping[str, Patterns], names: Iterable[str], text: str) -> list[Span]:
    return [Span(start, end, name) for name in names for start, end, _ in patterns[name].spans(text)]


def _holds(longer: Span, span: Span) -> bool:
    """Whether a span lies within a longer one."""
    return longer.start <= span.start and span.end <= longer.end and longer.end - longer.start > span.end - span.start


def _longest(spans: Sequence[Span], masks: Sequence[Span]) -> list[Span]:
    """Those that lie neither within a longer one nor within a mask, in order."""
    kept = [s for s in spans if not any(_holds(other, s) for other in (*spans, *masks))]
    return sorted(kept)
