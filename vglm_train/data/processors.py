"""How each stage processes a record's text: a record to a row of ids, and rows to a batch."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from vglm_train.batch import Batch, PairBatch, PromptBatch
from vglm_train.config.language import Questions
from vglm_train.data.record import Record, RecordError, content_id
from vglm_train.prompt.dialogue import Dialogue, EmptyAnswer, ImageMarkMismatch, Turn, image_turns
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


class Processor(Protocol):
    """A stage's text side. `process` may draw from `rng`, which belongs to the sample and the epoch."""

    def process(
        self, record: Record, rng: random.Random, language: str | None = None, context: SampleContext = NO_CONTEXT
    ) -> ProcessedSample:
        """`language`: the one to take; None: the processor chooses. RecordError for a record that has nothing to say;
        UserError for a mistake in the configuration."""

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

    def collate(self, rows: Sequence[list[int] | None], image_ids: Tensor, **common: Any) -> PairBatch:
        text_ids, text_mask = self.text.batch([ids or [] for ids in rows])
        return PairBatch(text_ids=text_ids, text_mask=text_mask, image_ids=image_ids, **common)


def draw_caption(record: Record, languages: Sequence[str], rng: random.Random) -> tuple[str, str]:
    """Language and caption: languages that the record has count the same, then captions of that language."""
    counts = {language: len(captions) for language, captions in record.captions.items()}
    choice = choose_caption(counts, languages, rng.random)
    if choice is None:
        present, wanted = ", ".join(record.captions) or "no language", ", ".join(languages)
        raise RecordError("caption", f"its captions are in {present}, data.languages is [{wanted}]")
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
        try:
            if record.turns and (record.language in wanted or not record.captions):
                return self._dialogue(record, rng, wanted, context)
            language, caption = draw_caption(record, wanted, rng)
            question = getattr(self.questions, language)
            dialogue = Dialogue(question, caption.strip(), language=language, images=context.images)
            return self._processed(dialogue, self.template.encode(dialogue, split=rng.random()))
        except EmptyAnswer as error:
            raise RecordError("caption", str(error)) from None
        except ImageMarkMismatch as error:
            raise RecordError("record", str(error)) from None

    def _dialogue(
        self, record: Record, rng: random.Random, wanted: Sequence[str], context: SampleContext
    ) -> ProcessedSample:
        if record.language not in wanted:
            reason = f"its dialogue is in {record.language}, data.languages is [{', '.join(wanted)}]"
            raise RecordError("caption", reason)
        targets = self.template.target_turns(dialogue_of(record, images=context.images), history_targets=True)
        turn = targets[(content_id(context.key.encode("utf-8", "surrogateescape")) + context.epoch) % len(targets)]
        dialogue = dialogue_of(record, turn, context.images)
        return self._processed(dialogue, self.template.encode(dialogue, split=rng.random(), history_targets=True))

    def _processed(self, dialogue: Dialogue, row: Encoded) -> ProcessedSample:
        images, most = len(row.image_starts), self.template.prompt.max_images
        if images > most:
            raise RecordError("record", f"it shows {images} pictures, prompt.max_images is {most}")
        return ProcessedSample(dialogue.language, dialogue.answer or "", row, images)

    def collate(self, rows: Sequence[Encoded | None], image_ids: Tensor, **common: Any) -> PromptBatch:
        fields: dict[str, Any] = {**self.template.collate(rows), **common}
        return PromptBatch(**fields)


def dialogue_of(record: Record, turn: int = -1, images: int = 1) -> Dialogue:
    """The record's dialogue up to `turn`, whose answer is to be given; later turns and their pictures are left out.

    `images`: pictures the record has. ImageMarkMismatch where its questions have marks for another number of them.
    """
    turns = [Turn(question, answer) for question, answer in record.turns]
    last = turns[turn]
    whole = Dialogue(turns[-1].question, None, tuple(turns[:-1]), images=images)
    history = tuple(turns[: range(len(turns))[turn]])
    seen = sum(len(placed.image_offsets) for placed in image_turns(whole)[: len(history) + 1])
    return Dialogue(last.question, last.answer, history, record.language or "en", seen)
