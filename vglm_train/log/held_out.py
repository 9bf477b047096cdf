"""Held-out scores of one evaluation beside what chance gives, with chance's noise: is there anything in them?"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from vglm_train.config.metric_names import DIRECTIONS, IMAGES, ITM_ACCURACY, PREFIX, SHUFFLED_IMAGES, language_metric
from vglm_train.log.jsonl import Row

ERRORS = 2.0  # standard errors of chance that a score must be above it
UNKNOWN = 100  # images of an evaluation that did not log how many it had


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A score in per cent of one language."""

    language: str
    value: float
    chance: float
    noise: float  # ERRORS standard errors of what chance gives, with as many images

    @property
    def above(self) -> bool:
        return self.value > self.chance + self.noise


def held_out(loss: str, row: Row, variant: str = "") -> list[HeldOut]:
    """What the row of an evaluation shows of a loss of stage one: of itm its accuracy, of itc recall at 1.

    Empty for another row or loss. variant: SHUFFLED_IMAGES.
    """
    found = []
    for language in _languages(row):
        images = row.get(language_metric(language, IMAGES), UNKNOWN)
        if loss == "itm":
            score, chance, decisions = row.get(language_metric(language, variant + ITM_ACCURACY)), 0.5, 2 * images
        else:
            names = [language_metric(language, f"{variant}{direction}_r1") for direction in DIRECTIONS]
            values = [row[name] for name in names if name in row]
            score, chance, decisions = sum(values) / len(values) if values else None, 1 / images, images
        if loss in ("itm", "itc") and score is not None and math.isfinite(score):
            noise = ERRORS * math.sqrt(chance * (1 - chance) / decisions)
            found.append(HeldOut(language, score, 100 * chance, 100 * noise))
    return found


def _languages(row: Row) -> Iterator[str]:
    """Languages with retrieval in a row."""
    for name in row:
        language = name.removeprefix(PREFIX).removesuffix(f"_{ITM_ACCURACY}")
        if name == language_metric(language, ITM_ACCURACY) and not language.endswith(SHUFFLED_IMAGES.rstrip("_")):
            yield language
