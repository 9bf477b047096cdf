"""The result of every scorer of texts."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TextScores:
    """Scores in per cent (CIDEr too: 100 times what its library gives, as papers print it)."""

    scores: dict[str, float]
    made_by: dict[str, str]  # score, or the segmenter behind it -> library, version, convention
    notes: tuple[str, ...] = ()  # what could not be measured, and why
    each: dict[str, list[float]] = field(
        default_factory=dict
    )  # score that is a mean -> the score of every text, in per cent
