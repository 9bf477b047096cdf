"""Records as prompts with answers, for stage two."""

import random
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vglm_train.batch import PromptBatch
from vglm_train.config.language import Questions
from vglm_train.data.record import Record, RecordError
from vglm_train.data.rows import Drawn, draw_caption
from vglm_train.prompt.dialogue import Dialogue, EmptyAnswer
from vglm_train.prompt.template import Encoded, Template


class PromptRows:
    """Stage two: one of the record's captions as the answer to the question of its language."""

    def __init__(self, template: Template, questions: Questions, languages: Sequence[str]) -> None:
        self.template, self.questions, self.languages = template, questions, tuple(languages)

    def read(self, record: Record, rng: random.Random, language: str | None = None) -> Drawn:
        language, caption = draw_caption(record, (language,) if language else self.languages, rng)
        dialogue = Dialogue(getattr(self.questions, language), caption.strip(), language=language)
        try:
            return Drawn(language, caption, self.template.encode(dialogue, split=rng.random()))
        except EmptyAnswer as error:
            raise RecordError("caption", str(error)) from None

    def batch(self, rows: Sequence[Encoded | None], image_ids: Tensor, **common: Any) -> PromptBatch:
        fields: dict[str, Any] = {**self.template.collate(rows), **common}
        return PromptBatch(**fields)
