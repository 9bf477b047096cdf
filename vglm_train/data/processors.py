"""How each stage processes a record's text: a record to a row of ids, and rows to a batch."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from vglm_train.batch import Batch, PairBatch, PromptBatch
from vglm_train.config.language import Questions
from vglm_train.data.record import Record, RecordError, content_id
from vglm_train.data.rules import captions_in, dialogue_of, learns_dialogue, no_caption
from vglm_train.prompt.dialogue import Dialogue, EmptyAnswer
from vglm_train.prompt.qformer_text import QFormerTokenizer
from vglm_train.prompt.template import Encoded, Template


@dataclass(frozen=True, slots=True)
class ProcessedSample:
    """What a sample says in one epoch: `row` is what `collate` takes."""

    language: str
    text: str
    row: Any
    images: int = 1  # the sample's pictures that it shows, from the first on


@dataclass(frozen=True, slots=True)
class SampleContext:
    """One reading of a sample: its key, the epoch, and how many pictures it has."""

    key: str = ""
    epoch: int = 0
    images: int = 1


NO_CONTEXT = SampleContext()


class RecordCheck(Protocol):
    """What says of a record, by its text and the number of its pictures, whether it can be used."""

    def check(self, record: Record, images: int) -> int:
        """How many of its pictures, the first ones, are looked at in some epoch. RecordError where there is an epoch
        that cannot use it."""


class Processor(RecordCheck, Protocol):
    """A stage's text side. `process` may draw from `rng`, which belongs to the sample and the epoch."""

    def process(
        self, record: Record, rng: random.Random, language: str | None = None, context: SampleContext = NO_CONTEXT
    ) -> ProcessedSample:
        """`language`: the one to take; None: the processor chooses. RecordError for a record that has nothing to say;
        UserError for a mistake in the configuration. What `check` passes is processed in every epoch."""

    def collate(self, rows: Sequence[Any | None], image_ids: Tensor, **common: Any) -> Batch:
        """None stands for a damaged sample; image_ids [b] int64; `common`: the fields that every Batch has."""


class PairProcessor:
    """Stage one: one of the record's captions as the Q-Former reads it."""

    def __init__(self, text: QFormerTokenizer, languages: Sequence[str]) -> None:
        self.text, self.languages = text, tuple(languages)

    def process(
        self, record: Record, rng: random.Random, language: str | None = None, context: SampleContext = NO_CONTEXT
    ) -> ProcessedSample:
        language, caption = draw_caption(record, (language,) if language else self.languages, rng)
        return ProcessedSample(language, caption, self.text.encode(caption, language))

    def check(self, record: Record, images: int) -> int:
        """Also UserError, for a caption that the tokenizer is not made for."""
        for language, caption in captions_in(record, self.languages):
            self.text.encode(caption, language)
        return 1

    def collate(self, rows: Sequence[list[int] | None], image_ids: Tensor, **common: Any) -> PairBatch:
        text_ids, text_mask = self.text.batch([ids or [] for ids in rows])
        return PairBatch(text_ids=text_ids, text_mask=text_mask, image_ids=image_ids, **common)


def draw_caption(record: Record, languages: Sequence[str], rng: random.Random) -> tuple[str, str]:
    """Language and caption: languages that the record has count the same, then captions of that language."""
    counts = {language: len(captions) for language, captions in record.captions.items()}
    choice = choose_caption(counts, languages, rng.random)
    if choice is None:
        raise no_caption(record, languages)
    language, number = choice
    return language, record.captions[language][number]


def choose_caption(
    counts: Mapping[str, int], languages: Sequence[str], random: Callable[[], float]
) -> tuple[str, int] | None:
    """The language and the number of the caption that `draw_caption` takes, of so many captions by language."""
    available = [language for language in languages if counts.get(language)]
    if not available:
        return None
    language = available[int(random() * len(available))]
    return language, int(random() * counts[language])


class PromptProcessor:
    """Later stages: a record's dialogue, or one of its captions as the answer to the question of its language.

    Of a dialogue an epoch teaches what one sequence holds: all answers if the template `learns_history` and they fit,
    else a part of them. The epochs take the parts in turn; the sample's key decides which part is first.
    """

    def __init__(self, template: Template, questions: Questions, languages: Sequence[str]) -> None:
        self.template, self.questions, self.languages = template, questions, tuple(languages)

    def process(
        self, record: Record, rng: random.Random, language: str | None = None, context: SampleContext = NO_CONTEXT
    ) -> ProcessedSample:
        wanted = (language,) if language else self.languages
        with _empty_as_record_error():
            if learns_dialogue(record, context.images, wanted, self.template.prompt.max_images):
                return self._dialogue(record, rng, context)
            language, caption = draw_caption(record, wanted, rng)
            return self._caption(language, caption, context.images, rng.random())

    def check(self, record: Record, images: int) -> int:
        """As of RecordCheck: every turn that an epoch may end with, or every caption."""
        with _empty_as_record_error():
            if learns_dialogue(record, images, self.languages, self.template.prompt.max_images):
                for turn in self._target_turns(record, images):
                    self._turn(record, turn, images, 0.0)
            else:
                for language, caption in captions_in(record, self.languages):
                    self._caption(language, caption, images, 0.0)
        return images

    def _dialogue(self, record: Record, rng: random.Random, context: SampleContext) -> ProcessedSample:
        targets = self._target_turns(record, context.images)
        turn = targets[(content_id(context.key.encode("utf-8", "surrogateescape")) + context.epoch) % len(targets)]
        return self._turn(record, turn, context.images, rng.random())

    def _target_turns(self, record: Record, images: int) -> list[int]:
        return self.template.target_turns(dialogue_of(record, images=images), history_targets=True)

    def _turn(self, record: Record, turn: int, images: int, split: float) -> ProcessedSample:
        dialogue = dialogue_of(record, turn, images)
        row = self.template.encode(dialogue, split=split, history_targets=True)
        return ProcessedSample(dialogue.language, dialogue.answer or "", row, len(row.image_starts))

    def _caption(self, language: str, caption: str, images: int, split: float) -> ProcessedSample:
        dialogue = Dialogue(getattr(self.questions, language), caption.strip(), language=language, images=images)
        row = self.template.encode(dialogue, split=split)
        return ProcessedSample(language, dialogue.answer or "", row, len(row.image_starts))

    def collate(self, rows: Sequence[Encoded | None], image_ids: Tensor, **common: Any) -> PromptBatch:
        fields: dict[str, Any] = {**self.template.collate(rows), **common}
        return PromptBatch(**fields)


@contextmanager
def _empty_as_record_error() -> Iterator[None]:
    try:
        yield
    except EmptyAnswer as error:
        raise RecordError("caption", str(error)) from None
