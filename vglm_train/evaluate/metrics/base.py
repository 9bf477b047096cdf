"""What every scorer of texts gives."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TextScores:
    """Scores in per cent (CIDEr too: 100 times what its library gives, as papers print it)."""

    scores: dict[str, float]
    made_by: dict[str, str]  # score, or the segmenter it rests on -> library, version, convention
    notes: tuple[str, ...] = ()  # what could not be measured, and why
    each: dict[str, list[float]] = field(default_factory=dict)  # of scores that are means: every text's, in per cent
