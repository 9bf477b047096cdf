"""What a record's text becomes for each stage: a row of ids, and rows a batch."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from vglm_train.batch import Batch, PairBatch
from vglm_train.data.record import Record, RecordError
from vglm_train.prompt.qformer_text import TextEncoder


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a sample says in one epoch: `row` is what `batch` takes."""

    language: str
    text: str
    row: Any
    images: int = 1  # the sample's pictures that it shows, from the first on


@dataclass(frozen=True, slots=True)
class Visit:
    """One reading of a sample: its key, the epoch, and how many pictures it has."""

    key: str = ""
    epoch: int = 0
    images: int = 1


ALONE = Visit()


class Rows(Protocol):
    """A stage's reading of records. `read` may draw from `rng`, which belongs to the sample and the epoch."""

    def read(self, record: Record, rng: random.Random, language: str | None = None, visit: Visit = ALONE) -> Drawn:
        """`language`: the one that it is to be. RecordError for a record that has nothing to say; UserError for a
        mistake in the configuration."""

    def batch(self, rows: Sequence[Any | None], image_ids: Tensor, **common: Any) -> Batch:
        """None stands for a damaged sample; image_ids [b] int64; `common`: the fields that every Batch has."""


class PairRows:
    """Stage one: one of the record's captions as the Q-Former reads it."""

    def __init__(self, text: TextEncoder, languages: Sequence[str]) -> None:
        self.text, self.languages = text, tuple(languages)

    def read(self, record: Record, rng: random.Random, language: str | None = None, visit: Visit = ALONE) -> Drawn:
        language, caption = draw_caption(record, (language,) if language else self.languages, rng)
        return Drawn(language, caption, self.text.encode(caption, language))

    def batch(self, rows: Sequence[list[int] | None], image_ids: Tensor, **common: Any) -> PairBatch:
        text_ids, text_mask = self.text.batch([ids or [] for ids in rows])
        return PairBatch(text_ids=text_ids, text_mask=text_mask, image_ids=image_ids, **common)


def draw_caption(record: Record, languages: Sequence[str], rng: random.Random) -> tuple[str, str]:
    """Language and caption: languages that the record has count the same, then captions of that language."""
    counts = {language: len(captions) for language, captions in record.captions.items()}
    drawn = draw(counts, languages, rng.random)
    if drawn is None:
        found, wanted = ", ".join(record.captions) or "no language", ", ".join(languages)
        raise RecordError("caption", f"its captions are in {found}, data.languages is [{wanted}]")
    language, number = drawn
    return language, record.captions[language][number]


def draw(counts: Mapping[str, int], languages: Sequence[str], random: Callable[[], float]) -> tuple[str, int] | None:
    """The language and the number of the caption that `draw_caption` takes, of so many captions by language."""
    spoken = [language for language in languages if counts.get(language)]
    if not spoken:
        return None
    language = spoken[int(random() * len(spoken))]
    return language, int(random() * counts[language])
