"""Records as prompts with answers, for a language model."""

import random
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vglm_train.batch import PromptBatch
from vglm_train.config.language import Questions
from vglm_train.data.processors import ALONE, Drawn, Visit, draw_caption
from vglm_train.data.record import Record, RecordError, content_id
from vglm_train.prompt.dialogue import Dialogue, EmptyAnswer, MarkMismatch, Turn, place
from vglm_train.prompt.template import Encoded, Template


class PromptRows:
    """A record's dialogue, or one of its captions as the answer to the question of its language.

    Of a dialogue an epoch teaches what one sequence can: all answers if the template `learns_history` and they fit,
    else a part of them, and the epochs take the parts in turn; where the round begins depends on the sample's key.
    """

    def __init__(self, template: Template, questions: Questions, languages: Sequence[str]) -> None:
        self.template, self.questions, self.languages = template, questions, tuple(languages)

    def read(self, record: Record, rng: random.Random, language: str | None = None, visit: Visit = ALONE) -> Drawn:
        wanted = (language,) if language else self.languages
        try:
            if record.turns and (record.language in wanted or not record.captions):
                return self._dialogue(record, rng, wanted, visit)
            language, caption = draw_caption(record, wanted, rng)
            question = getattr(self.questions, language)
            dialogue = Dialogue(question, caption.strip(), language=language, images=visit.images)
            return self._drawn(dialogue, self.template.encode(dialogue, split=rng.random()))
        except EmptyAnswer as error:
            raise RecordError("caption", str(error)) from None
        except MarkMismatch as error:
            raise RecordError("record", str(error)) from None

    def _dialogue(self, record: Record, rng: random.Random, wanted: Sequence[str], visit: Visit) -> Drawn:
        if record.language not in wanted:
            reason = f"its dialogue is in {record.language}, data.languages is [{', '.join(wanted)}]"
            raise RecordError("caption", reason)
        lessons = self.template.lessons(dialogue_of(record, images=visit.images), whole=True)
        turn = lessons[(content_id(visit.key.encode("utf-8", "surrogateescape")) + visit.epoch) % len(lessons)]
        dialogue = dialogue_of(record, turn, visit.images)
        return self._drawn(dialogue, self.template.encode(dialogue, split=rng.random(), whole=True))

    def _drawn(self, dialogue: Dialogue, row: Encoded) -> Drawn:
        images, most = len(row.visual), self.template.prompt.max_images
        if images > most:
            raise RecordError("record", f"it shows {images} pictures, prompt.max_images is {most}")
        return Drawn(dialogue.language, dialogue.answer or "", row, images)

    def batch(self, rows: Sequence[Encoded | None], image_ids: Tensor, **common: Any) -> PromptBatch:
        fields: dict[str, Any] = {**self.template.collate(rows), **common}
        return PromptBatch(**fields)


def dialogue_of(record: Record, turn: int = -1, images: int = 1) -> Dialogue:
    """The record's dialogue up to `turn`, whose answer is to be given; later turns and their pictures are left out.

    `images`: pictures the record has. MarkMismatch where its questions have marks for another number of them.
    """
    turns = [Turn(question, answer) for question, answer in record.turns]
    last = turns[turn]
    whole = Dialogue(turns[-1].question, None, tuple(turns[:-1]), images=images)
    history = tuple(turns[: range(len(turns))[turn]])
    seen = sum(len(placed.images) for placed in place(whole)[: len(history) + 1])
    return Dialogue(last.question, last.answer, history, record.language or "en", seen)
