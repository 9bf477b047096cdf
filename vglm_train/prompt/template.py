"""A picture, a dialogue and an answer as one sequence of ids; the same object trains, evaluates and chats.

b rows, s places of the sequence, t places of the labels.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vglm_train.batch import IGNORED, PromptBatch
from vglm_train.config.language import Language, Prompt
from vglm_train.config.rules import FieldError
from vglm_train.errors import UserError
from vglm_train.prompt.dialogue import Dialogue, EmptyAnswer, Turn
from vglm_train.prompt.tokenizers import HfTokenizer, Tokenizer


@dataclass(frozen=True, slots=True)
class Encoded:
    """One dialogue about one picture.

    Decoder-only: labels are as long as input_ids and name the id in the same place, IGNORED before the answer.
    Encoder-decoder: the answer alone. Empty for a prompt to be answered.
    """

    input_ids: list[int]
    visual: tuple[int, int]  # first place of the image, number of its places
    labels: list[int]
    cut: bool = False  # history, question or answer was too long and is not all there


Context = tuple[list[int], list[int]]  # ids before the image's places and ids behind them


class Template(ABC):
    """Dialogues to ids and back.

    `prompt.max_prompt` bounds all ids before the answer but the image's places, `prompt.max_answer` the answer with
    its end. Too long for training: the oldest turns go first, then the question's end, then the answer's end together
    with the id that says it ended. The image's places and the words that call for the answer are never cut.
    """

    separate_answer = False  # labels are a sequence of their own

    def __init__(self, prompt: Prompt, tokenizer: Tokenizer, image_length: int) -> None:
        self.prompt, self.tokenizer, self.image_length = prompt, tokenizer, image_length
        self.end_id = _end_id(prompt, tokenizer)
        self._fit("", (), "en")  # UserError at the start where max_prompt has no room for the frame

    @abstractmethod
    def context(self, question: str, history: Sequence[Turn], language: str) -> Context:
        """All ids before the answer."""

    @abstractmethod
    def encode(self, dialogue: Dialogue, split: float | None = None) -> Encoded:
        """A dialogue to learn from. EmptyAnswer where there is nothing to learn.

        `split` in [0,1) says where the given words end if the prompt is configured with `prefix_split`.
        """

    def encode_prompt(self, dialogue: Dialogue) -> Encoded:
        """A dialogue to be answered, up to where the answer begins. UserError where it is longer than max_prompt."""
        before, behind = self.context(dialogue.question, dialogue.history, dialogue.language)
        length = len(before) + len(behind)
        if length > self.prompt.max_prompt:
            raise UserError(
                f"the question with its history is {length} ids long, and prompt.max_prompt is "
                f"{self.prompt.max_prompt}; ask more briefly, drop history or raise prompt.max_prompt"
            )
        return Encoded(self._joined(before, behind), self._visual(before), [])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of an answer's new ids, up to its end."""
        ids = [int(i) for i in ids]
        end = ids.index(self.end_id) if self.end_id in ids else len(ids)
        return self.tokenizer.decode(ids[:end]).strip()

    def collate(self, rows: Sequence[Encoded | None]) -> dict[str, Tensor]:
        """b rows, padded on the right to the longest.

        input_ids, attention_mask, visual_mask [b,s] and labels [b,t]; t is s for a decoder-only model. A damaged row
        (None) is the image's places alone, without labels. ValueError where a row has another number of places.
        """
        given = [row or Encoded(self._places(), (0, self.image_length), []) for row in rows]
        length = max(len(row.input_ids) for row in given)
        answer = max(1, *(len(row.labels) for row in given)) if self.separate_answer else length
        ids = torch.full((len(given), length), self.tokenizer.pad_id, dtype=torch.int64)
        attention, visual = torch.zeros(2, *ids.shape, dtype=torch.bool)
        labels = torch.full((len(given), answer), IGNORED, dtype=torch.int64)
        for number, row in enumerate(given):
            self._check(row)
            start, places = row.visual
            ids[number, : len(row.input_ids)] = torch.tensor(row.input_ids)
            attention[number, : len(row.input_ids)] = True
            visual[number, start : start + places] = True
            labels[number, : len(row.labels)] = torch.tensor(row.labels, dtype=torch.int64)
        return {"input_ids": ids, "attention_mask": attention, "visual_mask": visual, "labels": labels}

    def batch(self, rows: Sequence[Encoded], pixels: Tensor | None) -> PromptBatch:
        """`collate` with a picture each, pixels [b,3,h,w]. None: no pictures, the image's places are read as ids."""
        fields = self.collate(rows)
        if pixels is None:
            pixels, fields["visual_mask"] = torch.empty(0), torch.zeros_like(fields["visual_mask"])
        return PromptBatch(
            pixels=pixels,
            valid=torch.ones(len(rows), dtype=torch.bool),
            input_ids=fields["input_ids"],
            attention_mask=fields["attention_mask"],
            visual_mask=fields["visual_mask"],
            labels=fields["labels"],
        )

    def _check(self, row: Encoded) -> None:
        start, places = row.visual
        if places != self.image_length or not 0 <= start <= len(row.input_ids) - places:
            raise ValueError(
                f"a row of {len(row.input_ids)} ids has {places} places for the image from {start} on; the template "
                f"wants {self.image_length}"
            )

    def _fit(self, question: str, history: Sequence[Turn], language: str) -> tuple[Context, bool]:
        """The context within max_prompt, and whether something was left out."""
        for first in range(len(history) + 1):
            context = self.context(question, history[first:], language)
            if self._fits(context):
                return context, first > 0
        low, high = 0, len(question)  # characters: low fit as far as known, high do not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._fits(self.context(question[:middle], (), language)) else (low, middle)
        context = self.context(question[:low], (), language) if low else ([], [])
        if not low or not self._fits(context):
            raise UserError(
                f"prompt.max_prompt: {self.prompt.max_prompt} ids have no room for a question in {language!r}; raise it"
            )
        return context, True

    def _fits(self, context: Context) -> bool:
        return len(context[0]) + len(context[1]) <= self.prompt.max_prompt

    def _text(self, dialogue: Dialogue) -> str:
        """The answer to be learnt: trimmed, and on the way no text that would end it. EmptyAnswer if there is none."""
        whole = dialogue.answer or ""
        parts = whole.split(self.prompt.end) if self.prompt.end else [whole]
        answer = " ".join(part.strip() for part in parts if part.strip())
        if not answer:
            raise EmptyAnswer(f"the answer to {dialogue.question[:60]!r} is empty")
        return answer

    def _ended(self, answer: list[int]) -> tuple[list[int], bool]:
        """The answer with its end, or what max_answer leaves of it; and whether it was cut."""
        if not answer:
            raise EmptyAnswer("the tokenizer leaves nothing of the answer")
        whole = [*answer, self.end_id]
        return whole[: self.prompt.max_answer], len(whole) > self.prompt.max_answer

    def _places(self) -> list[int]:
        return [self.tokenizer.pad_id] * self.image_length

    def _joined(self, before: list[int], behind: list[int]) -> list[int]:
        return [*before, *self._places(), *behind]

    def _visual(self, before: list[int]) -> tuple[int, int]:
        return len(before), self.image_length


def build_template(prompt: Prompt, language: Language, tokenizer: Tokenizer, image_length: int) -> Template:
    """The template of a language model's family. FieldError, a UserError, where sections do not go together."""
    from vglm_train.prompt.blip2 import CausalTemplate, SeqToSeqTemplate
    from vglm_train.prompt.visualglm import VisualGLMTemplate

    wanted = "visualglm" if language.family == "chatglm" else "blip2"
    if prompt.style != wanted:
        reason = f"a language model of family {language.family} is prompted with style {wanted}, not {prompt.style}"
        raise FieldError("prompt.style", "model.language.family", reason=reason)
    if prompt.prefix_split and language.family != "seq2seq":
        reason = f"needs a seq2seq language model, which reads the first words apart; family is {language.family}"
        raise FieldError("prompt.prefix_split", "model.language.family", reason=reason)
    if language.family == "chatglm":
        return VisualGLMTemplate(prompt, tokenizer, image_length)
    assert isinstance(tokenizer, HfTokenizer)
    return {"causal": CausalTemplate, "seq2seq": SeqToSeqTemplate}[language.family](prompt, tokenizer, image_length)


def _end_id(prompt: Prompt, tokenizer: Tokenizer) -> int:
    if prompt.end is None:
        return tokenizer.end_id
    named = tokenizer.find(prompt.end)
    ids = tokenizer.encode(prompt.end) if named is None else [named]
    if len(ids) != 1:
        reason = f"{prompt.end!r} is {len(ids)} ids ({', '.join(map(str, ids))}) for this tokenizer and must be one"
        raise FieldError("prompt.end", reason=f"{reason}; null takes the tokenizer's end token")
    return ids[0]
