"""What of a report is learned: its findings, its impression, both or all; with or without earlier studies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from data_tools.common.text import detect_language
from data_tools.convert.earlier import refers_to_earlier, sentences, without_earlier
from data_tools.convert.headings import BOTH, FINDINGS, IMPRESSION, TITLES, part_named, split_report
from vglm_train.data.record import RecordError
from vglm_train.data.tables.cells import is_missing
from vglm_train.data.tables.fields import known
from vglm_train.data.tables.layouts.rows import Values

Part = Literal["findings", "impression", "both", "whole"]
Earlier = Literal["keep", "drop-sentence", "drop-row"]
PARTS, EARLIER = get_args(Part), get_args(Earlier)
NO_HEADING = "a report without a heading that is known, so that its parts are not told"
ONLY_EARLIER = "a report that only refers to an earlier study"
REFERS = "a report that refers to an earlier study"
DROPPED = "sentences that refer to an earlier study, left out"


@dataclass(frozen=True, slots=True)
class ReportRules:
    """As --report-part and --earlier say."""

    part: Part = "whole"
    earlier: Earlier = "keep"

    def apply(self, captions: Mapping[str, Sequence[str]], notes: list[str]) -> dict[str, list[str]]:
        """The captions as they are learned; `notes` gets what is left out. RecordError for what cannot be learned."""
        if self.part == "whole" and self.earlier == "keep":
            return {language: list(texts) for language, texts in captions.items()}
        return {language: [self._text(text, notes) for text in texts] for language, texts in captions.items()}

    def _text(self, text: str, notes: list[str]) -> str:
        text = part_of(text, self.part)
        if self.earlier == "keep" or not any(map(refers_to_earlier, sentences(text))):
            return text
        if self.earlier == "drop-row":
            raise RecordError("record", REFERS)
        notes.append(DROPPED)
        # each part by itself, so that none keeps a title without a text
        parts = split_report(text) if self.part == "both" else {}
        if parts.keys() & {FINDINGS, IMPRESSION}:
            kept = _joined({part: without_earlier(held) for part, held in parts.items()})
        else:
            kept = without_earlier(text)
        if not kept:
            raise RecordError("record", ONLY_EARLIER)
        return kept


def part_of(text: str, part: Part) -> str:
    """That part of a report. RecordError where it has none."""
    if part == "whole":
        return text
    parts = split_report(text)
    if not parts.keys() & {FINDINGS, IMPRESSION, BOTH}:
        raise RecordError("record", NO_HEADING)
    if part == "both":
        return _joined(parts)
    if part not in parts:
        raise RecordError("record", f"a report without {part}")
    return parts[part]


def _joined(parts: Mapping[str, str]) -> str:
    titles = TITLES[detect_language(" ".join(parts.values()))]
    texts = [*([parts[BOTH]] if parts.get(BOTH) else []), *(titles[p] + parts[p] for p in titles if parts.get(p))]
    return "\n".join(texts)


@dataclass(frozen=True, slots=True)
class PartColumns:
    """A step on rows: cells of columns that hold parts of a report become one report with headings."""

    columns: tuple[tuple[str, str], ...]  # part, column
    report: tuple[str, ...]  # columns with whole reports, for rows where those are empty
    adds = ("captions",)

    @property
    def name(self) -> str:
        return repr((self.columns, self.report))

    def __call__(self, row: Values) -> Values:
        cells = [(part, str(row[name])) for part, name in self.columns if not is_missing(row.get(name))]
        if not cells:
            whole = next((row[name] for name in self.report if not is_missing(row.get(name))), None)
            return row | {"captions": None if whole is None else [whole]}
        return row | {"captions": ["\n".join(f"{part.upper()}:\n{text}" for part, text in cells)]}


def part_columns(columns: Sequence[str], named: Sequence[tuple[str, str]] = ()) -> PartColumns | None:
    """The columns that hold findings or impression, `named` (part, column) or by their names; None: there are none."""
    found: Sequence[tuple[str | None, str]] = named or [(part_named(name), name) for name in columns]
    parts = tuple((wanted, name) for wanted in (FINDINGS, IMPRESSION) for part, name in found if part == wanted)
    if not parts:
        return None
    own = {name for _, name in parts}
    return PartColumns(parts, tuple(name for name in known("caption", columns) if name not in own))
