"""Pictures, a dialogue and an answer as one sequence of ids; the same object trains, evaluates and chats.

b rows, n pictures, s places of the sequence, t places of the labels.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, Self

import torch
from torch import Tensor

from vglm_train.batch import IGNORED, PromptBatch
from vglm_train.config.language import Prompt
from vglm_train.config.validation import FieldError
from vglm_train.errors import UserError
from vglm_train.prompt.dialogue import Dialogue, EmptyAnswer, ImageTurn, place_images, without_oldest
from vglm_train.prompt.qformer_text import TextEncoder
from vglm_train.prompt.tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class Encoded:
    """One dialogue about its pictures.

    Decoder-only: labels are as long as input_ids and name the id that is to stand in the same place, IGNORED where it
    is not learnt; it differs from input_ids where an earlier answer ends, since a dialogue goes on without its end
    token. Encoder-decoder: the answer alone. Empty for a prompt to be answered.
    """

    input_ids: list[int]
    visual: tuple[int, ...]  # first place of each picture, in order; each has the template's `image_length` places
    labels: list[int]
    cut: bool = False  # history, question or answer was too long and is not all there
    question: tuple[int, ...] = ()  # the question's ids for a Q-Former that reads it


@dataclass(frozen=True, slots=True)
class Context:
    """All ids before an answer.

    `pieces` are the ids before, between and behind the pictures: one more than these. `answers` are those of earlier
    turns: number of the piece, first place in it, place behind the last. `before` is the text that the answer comes
    behind; empty where it comes behind a picture, or is told apart anyway.
    """

    pieces: list[list[int]]
    answers: tuple[tuple[int, int, int], ...] = ()
    before: str = ""

    @property
    def length(self) -> int:
        """Ids, pictures not counted."""
        return sum(map(len, self.pieces))


class Template(ABC):
    """Dialogues to ids and back.

    `prompt.max_prompt` bounds all ids before the answer but the pictures' places, `prompt.max_answer` the answer with
    its end. Too long for training: the oldest turns go first, then the question's end, then the answer's end together
    with the id that says it ended. Pictures and the words that call for the answer are never cut: the pictures of a
    turn that goes stand before the first one that is left.

    `learns_history`: the model reads no answer before it has foretold it, so that one sequence can teach all answers
    of a dialogue. Where it is False, the context sees itself whole (a prefix, an encoder) or the Q-Former reads the
    question, and a sequence teaches its last answer alone.
    """

    separate_answer = False  # labels are a sequence of their own
    learns_history = False

    def __init__(
        self, prompt: Prompt, tokenizer: Tokenizer, image_length: int, text: TextEncoder | None = None
    ) -> None:
        """`image_length`: places of a picture; `text`: of a Q-Former that reads the question."""
        self.prompt, self.tokenizer, self.image_length, self.text = prompt, tokenizer, image_length, text
        self.learns_history = self.learns_history and text is None
        self.end_id = _end_id(prompt, tokenizer)
        self._fit([ImageTurn("", (0,))], "en")  # UserError at the start where max_prompt has no room for the frame

    @abstractmethod
    def context(self, turns: Sequence[ImageTurn], language: str) -> Context:
        """All ids before the answer to the last of `turns`."""

    @abstractmethod
    def encode(self, dialogue: Dialogue, split: float | None = None, whole: bool = False) -> Encoded:
        """A dialogue to learn from. EmptyAnswer where there is nothing to learn, MarkMismatch as `place_images`.

        `split` in [0,1) says where the given words end if the prompt is configured with `prefix_split`. `whole`: the
        answers of its history are targets too, if the template `learns_history`.
        """

    def with_max_prompt(self, max_prompt: int) -> Self:
        """The same with another `prompt.max_prompt`. FieldError, a UserError, where that has no room for a question."""
        prompt = replace(self.prompt, max_prompt=max_prompt)
        return type(self)(prompt, self.tokenizer, self.image_length, self.text)

    def prompt_length(self, dialogue: Dialogue) -> int:
        """Ids before the answer of a dialogue, its pictures not counted: what `prompt.max_prompt` bounds."""
        return self.context(place_images(dialogue), dialogue.language).length

    def encode_prompt(self, dialogue: Dialogue) -> Encoded:
        """A dialogue to be answered, up to where the answer begins. UserError where it is longer than max_prompt."""
        context = self.context(place_images(dialogue), dialogue.language)
        if context.length > self.prompt.max_prompt:
            raise UserError(
                f"the question with its history is {context.length} ids long, and prompt.max_prompt is "
                f"{self.prompt.max_prompt}; ask more briefly, drop history or raise prompt.max_prompt"
            )
        return Encoded(self._joined(context), self._starts(context), [], question=self._question(dialogue))

    def lessons(self, dialogue: Dialogue, whole: bool = False) -> list[int]:
        """The turns that sequences end with, ascending, which together teach each answer of a dialogue once.

        The dialogue's own question is the last turn, number len(history). Every turn; or with `whole`, where the
        template `learns_history`, the last turns of as few sequences as max_prompt has room for.
        """
        turns = place_images(dialogue)
        if not (whole and self.learns_history) or len(turns) == 1:
            return list(range(len(turns)))
        ends, end = [], len(turns)
        while end:
            ends.append(end - 1)
            _, end, _ = self._fit(turns[:end], dialogue.language)
        return ends[::-1]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of an answer's new ids, up to its end."""
        ids = [int(i) for i in ids]
        end = ids.index(self.end_id) if self.end_id in ids else len(ids)
        return self.tokenizer.decode(ids[:end]).strip()

    def collate(self, rows: Sequence[Encoded | None]) -> dict[str, Tensor]:
        """b rows, padded on the right to the longest.

        input_ids, attention_mask, visual_mask [b,s] and labels [b,t]; t is s for a decoder-only model. question_ids,
        question_mask [n,u] if the Q-Former reads. A damaged row (None) is one picture's places alone, without labels.
        ValueError where a picture has not all its places.
        """
        given = [row or Encoded(self._places(), (0,), []) for row in rows]
        length = max(len(row.input_ids) for row in given)
        answer = max(1, *(len(row.labels) for row in given)) if self.separate_answer else length
        ids = torch.full((len(given), length), self.tokenizer.pad_id, dtype=torch.int64)
        attention, visual = torch.zeros(2, *ids.shape, dtype=torch.bool)
        labels = torch.full((len(given), answer), IGNORED, dtype=torch.int64)
        for number, row in enumerate(given):
            self._check(row)
            ids[number, : len(row.input_ids)] = torch.tensor(row.input_ids)
            attention[number, : len(row.input_ids)] = True
            for start in row.visual:
                visual[number, start : start + self.image_length] = True
            labels[number, : len(row.labels)] = torch.tensor(row.labels, dtype=torch.int64)
        batch = {"input_ids": ids, "attention_mask": attention, "visual_mask": visual, "labels": labels}
        return batch if self.text is None else {**batch, **self._questions(given)}

    def batch(self, rows: Sequence[Encoded], pixels: Tensor | None) -> PromptBatch:
        """`collate` with the pictures of all rows in turn, pixels [n,3,h,w]. None: their places are read as ids."""
        fields: dict[str, Any] = dict(self.collate(rows))
        if pixels is None:
            pixels, fields["visual_mask"] = torch.empty(0), torch.zeros_like(fields["visual_mask"])
        return PromptBatch(pixels=pixels, valid=torch.ones(len(rows), dtype=torch.bool), **fields)

    def _question(self, dialogue: Dialogue) -> tuple[int, ...]:
        """What a Q-Former reads: the question alone, in words."""
        if self.text is None:
            return ()
        return tuple(self.text.encode(place_images(dialogue)[-1].question, dialogue.language))

    def _questions(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        assert self.text is not None
        nothing = (self.text.cls_id, self.text.sep_id)
        ids, mask = self.text.batch([row.question or nothing for row in rows for _ in row.visual])
        longest = max(1, int(mask.sum(1).max())) if len(mask) else 1
        return {"question_ids": ids[:, :longest], "question_mask": mask[:, :longest]}

    def _check(self, row: Encoded) -> None:
        edges = [-self.image_length, *row.visual, len(row.input_ids)]
        if any(start + self.image_length > end for start, end in pairwise(edges)):
            raise ValueError(
                f"a row of {len(row.input_ids)} ids has pictures from {list(row.visual)} on; the template wants "
                f"{self.image_length} places for each"
            )

    def _fit(self, turns: Sequence[ImageTurn], language: str) -> tuple[Context, int, bool]:
        """The context within max_prompt, the number of oldest turns left out, and whether anything was."""
        for first in range(len(turns)):
            context = self.context(without_oldest(turns, first), language)
            if self._fits(context):
                return context, first, first > 0
        (asked,) = without_oldest(turns, len(turns) - 1)
        low, high = 0, len(asked.question)  # characters: low fit as far as known, high do not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._fits(self.context([asked.cut(middle)], language)) else (low, middle)
        context = self.context([asked.cut(low)], language)
        if not low or not self._fits(context):
            raise UserError(
                f"prompt.max_prompt: {self.prompt.max_prompt} ids have no room for a question in {language!r}; raise it"
            )
        return context, len(turns) - 1, True

    def _fits(self, context: Context) -> bool:
        return context.length <= self.prompt.max_prompt

    def _text(self, dialogue: Dialogue) -> str:
        """The answer to be learnt. EmptyAnswer if there is none."""
        answer = self._clean(dialogue.answer or "")
        if not answer:
            raise EmptyAnswer(f"the answer to {dialogue.question[:60]!r} is empty")
        return answer

    def _clean(self, answer: str) -> str:
        """Trimmed, and on the way no text that would end it."""
        parts = answer.split(self.prompt.end) if self.prompt.end else [answer]
        return " ".join(part.strip() for part in parts if part.strip())

    def _ended(self, answer: list[int]) -> tuple[list[int], bool]:
        """The answer with its end, or what max_answer leaves of it; and whether it was cut."""
        if not answer:
            raise EmptyAnswer("the tokenizer leaves nothing of the answer")
        whole = [*answer, self.end_id]
        return whole[: self.prompt.max_answer], len(whole) > self.prompt.max_answer

    def _places(self) -> list[int]:
        return [self.tokenizer.pad_id] * self.image_length

    def _joined(self, context: Context) -> list[int]:
        first, *others = context.pieces
        return [*first, *(token for piece in others for token in [*self._places(), *piece])]

    def _starts(self, context: Context) -> tuple[int, ...]:
        """First places of the pictures."""
        ends = accumulate(map(len, context.pieces[:-1]))
        return tuple(end + number * self.image_length for number, end in enumerate(ends))


def _end_id(prompt: Prompt, tokenizer: Tokenizer) -> int:
    if prompt.end is None:
        return tokenizer.end_id
    named = tokenizer.find(prompt.end)
    ids = tokenizer.encode(prompt.end) if named is None else [named]
    if len(ids) != 1:
        reason = f"{prompt.end!r} is {len(ids)} ids ({', '.join(map(str, ids))}) for this tokenizer and must be one"
        raise FieldError("prompt.end", reason=f"{reason}; null takes the tokenizer's end token")
    return ids[0]
