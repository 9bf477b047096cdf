"""What all prompt templates share: images, a dialogue and an answer become one sequence of ids.

b rows, n images, s positions of the input, t positions of the labels, u of a question for the Q-Former.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from vglm_train.batch import IGNORED, PromptBatch, target_places
from vglm_train.config.language import Prompt
from vglm_train.config.validation import FieldError
from vglm_train.errors import UserError
from vglm_train.prompt.dialogue import Dialogue, EmptyAnswer, ImageTurn, image_turns, without_oldest
from vglm_train.prompt.qformer_text import QFormerTokenizer
from vglm_train.prompt.tokenizers import Tokenizer


class TooLong(UserError):  # noqa: N818
    """A question that no model may be asked here: it is longer than a limit, and a question is never cut."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One dialogue as ids.

    Decoder-only: `labels` are as long as `input_ids` and name the id to be predicted at the same position, or IGNORED.
    They differ from `input_ids` where an earlier answer ends, since a dialogue goes on without its end token.
    Encoder-decoder: the labels are the answer alone. A prompt without an answer has no labels.
    """

    input_ids: list[int]
    image_starts: tuple[int, ...]  # first position of each image, in order; each has `Template.image_length` positions
    labels: list[int]
    truncated: bool = False  # a part of the history, the question or the answer was too long and is left out
    question_ids: tuple[int, ...] = ()  # for a Q-Former that reads the question


class AnswerSpan(NamedTuple):
    """Where an earlier answer is: positions `start` to `end` of a segment."""

    segment: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class PromptIds:
    """All ids before an answer, without those of the images.

    `segments` are the ids before, between and after the images: one more than images. `last_text` is the text just
    before the answer; empty after an image, and if the answer is encoded apart from the prompt.
    """

    segments: list[list[int]]
    history_answers: tuple[AnswerSpan, ...] = ()
    last_text: str = ""

    @property
    def length(self) -> int:
        """Number of ids, images not counted."""
        return sum(map(len, self.segments))


class Template(ABC):
    """Dialogues to ids and back.

    `prompt.max_prompt` limits the ids before the answer, images not counted; `prompt.max_answer` limits the answer with
    its end. If a dialogue to learn from is too long, the oldest turns are left out first, then the end of the question,
    then the end of the answer with the end token. Images and the words that call for the answer are never left out: the
    images of a turn that is left out move before the first remaining question.

    `learns_history`: the model predicts each answer before it reads it, so one sequence can teach all answers of a
    dialogue. It is False if the context sees itself whole (a prefix, an encoder) or the Q-Former reads the question.
    Then a sequence teaches its last answer only.
    """

    separate_answer = False  # the labels are a sequence of their own
    learns_history = False

    def __init__(
        self, prompt: Prompt, tokenizer: Tokenizer, image_length: int, text: QFormerTokenizer | None = None
    ) -> None:
        """`image_length`: positions of an image; `text`: the tokenizer of a Q-Former that reads the question.

        UserError if max_prompt is too short for the words around a question.
        """
        self.prompt, self.tokenizer, self.image_length, self.text = prompt, tokenizer, image_length, text
        self.learns_history = self.learns_history and text is None
        self.end_id = _end_id(prompt, tokenizer)
        self._fit([ImageTurn("", (0,))], "en")

    @abstractmethod
    def prompt_ids(self, turns: Sequence[ImageTurn], language: str) -> PromptIds:
        """All ids before the answer to the last of `turns`, whatever their number."""

    @abstractmethod
    def encode(self, dialogue: Dialogue, split: float | None = None, history_targets: bool = False) -> Encoded:
        """A dialogue to learn from.

        `history_targets`: the answers of its history are targets too, if the template `learns_history`.
        `split` in [0,1): where the answer is split between prompt and target, if `prompt.prefix_split` is set.
        EmptyAnswer if there is nothing to learn, ImageMarkMismatch as `image_turns`.
        """

    def with_max_prompt(self, max_prompt: int) -> Self:
        """The same template with another `prompt.max_prompt`. UserError if that is too short for any question."""
        prompt = replace(self.prompt, max_prompt=max_prompt)
        return type(self)(prompt, self.tokenizer, self.image_length, self.text)

    def prompt_length(self, dialogue: Dialogue) -> int:
        """Number of ids before the answer, images not counted: what `prompt.max_prompt` limits."""
        return self.prompt_ids(image_turns(dialogue), dialogue.language).length

    def encode_prompt(self, dialogue: Dialogue) -> Encoded:
        """A dialogue up to where its answer begins. UserError if it is longer than max_prompt."""
        prompt = self.prompt_ids(image_turns(dialogue), dialogue.language)
        if prompt.length > self.prompt.max_prompt:
            raise UserError(
                f"the question with its history is {prompt.length} ids long, and prompt.max_prompt is "
                f"{self.prompt.max_prompt}; ask more briefly, drop history or raise prompt.max_prompt"
            )
        question_ids = self._question_ids(dialogue)
        return Encoded(self._input_ids(prompt), self._image_starts(prompt), [], question_ids=question_ids)

    def target_turns(self, dialogue: Dialogue, history_targets: bool = False) -> list[int]:
        """Numbers of the turns, ascending, that training sequences end with, to teach each answer once.

        Number len(history) is the dialogue's own question. These are all turns; or, with `history_targets` and a
        template that `learns_history`, the last turns of as few sequences as max_prompt allows.
        """
        turns = image_turns(dialogue)
        if not (history_targets and self.learns_history) or len(turns) == 1:
            return list(range(len(turns)))
        last_turns, end = [], len(turns)
        while end:
            last_turns.append(end - 1)
            _, end, _ = self._fit(turns[:end], dialogue.language)
        return last_turns[::-1]

    def encode_fitting(self, dialogue: Dialogue, length: int) -> tuple[Encoded, int]:
        """A dialogue up to where its answer begins, in at most `length` ids, images included, whatever max_prompt is.

        Also the number of oldest turns that were left out for that; their images stay. TooLong if the last question
        alone is longer: a question is never cut.
        """
        turns = image_turns(dialogue)
        for first in range(len(turns)):
            prompt = self.prompt_ids(without_oldest(turns, first), dialogue.language)
            ids = self._input_ids(prompt)
            if len(ids) <= length:
                return Encoded(ids, self._image_starts(prompt), [], question_ids=self._question_ids(dialogue)), first
        pictures = len(prompt.segments) - 1
        raise TooLong(
            f"the question is {prompt.length} ids long and comes with {pictures} pictures of {self.image_length} ids; "
            f"together they may have {length}. Ask more briefly, show fewer pictures, or begin a new conversation."
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Text of an answer's new ids, up to its end."""
        ids = [int(i) for i in ids]
        end = ids.index(self.end_id) if self.end_id in ids else len(ids)
        return self.polish(self.tokenizer.decode(ids[:end])).rstrip()

    def polish(self, text: str) -> str:
        """The text of an answer, finished or not, as it is shown; spaces at its end are for the caller to remove."""
        return text.lstrip()

    def undecided(self, text: str) -> int:
        """How many characters at the end of a polished, unfinished answer may change with what follows."""
        return 0

    def collate(self, rows: Sequence[Encoded | None]) -> dict[str, Tensor]:
        """b rows, padded on the right to the longest.

        input_ids, attention_mask, visual_mask [b,s], labels [b,t], targets [m]; t is s for a decoder-only model.
        question_ids and question_mask [n,u] if the Q-Former reads the question. A damaged row (None) becomes one image
        without text and labels. ValueError if an image overlaps another one or the end of its row.
        """
        encoded = [row or Encoded(self._image_ids(), (0,), []) for row in rows]
        length = max(len(row.input_ids) for row in encoded)
        answer = max(1, *(len(row.labels) for row in encoded)) if self.separate_answer else length
        ids = torch.full((len(encoded), length), self.tokenizer.pad_id, dtype=torch.int64)
        attention, visual = torch.zeros(2, *ids.shape, dtype=torch.bool)
        labels = torch.full((len(encoded), answer), IGNORED, dtype=torch.int64)
        for number, row in enumerate(encoded):
            self._check(row)
            ids[number, : len(row.input_ids)] = torch.tensor(row.input_ids)
            attention[number, : len(row.input_ids)] = True
            for start in row.image_starts:
                visual[number, start : start + self.image_length] = True
            labels[number, : len(row.labels)] = torch.tensor(row.labels, dtype=torch.int64)
        batch = {"input_ids": ids, "attention_mask": attention, "visual_mask": visual, "labels": labels}
        batch["targets"] = target_places(labels, self.separate_answer)
        return batch if self.text is None else {**batch, **self._collate_questions(encoded)}

    def batch(self, rows: Sequence[Encoded], pixels: Tensor | None) -> PromptBatch:
        """`collate` with the images of all rows in turn, pixels [n,3,h,w].

        Without pixels the model reads the ids at the images' positions.
        """
        fields: dict[str, Any] = dict(self.collate(rows))
        if pixels is None:
            pixels, fields["visual_mask"] = torch.empty(0), torch.zeros_like(fields["visual_mask"])
        return PromptBatch(pixels=pixels, valid=torch.ones(len(rows), dtype=torch.bool), **fields)

    def _question_ids(self, dialogue: Dialogue) -> tuple[int, ...]:
        """What the Q-Former reads: the last question alone."""
        if self.text is None:
            return ()
        return tuple(self.text.encode(image_turns(dialogue)[-1].question, dialogue.language))

    def _collate_questions(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        """The question of its row for each image."""
        assert self.text is not None
        empty = (self.text.cls_id, self.text.sep_id)
        ids, mask = self.text.batch([row.question_ids or empty for row in rows for _ in row.image_starts])
        longest = max(1, int(mask.sum(1).max())) if len(mask) else 1
        return {"question_ids": ids[:, :longest], "question_mask": mask[:, :longest]}

    def _check(self, row: Encoded) -> None:
        edges = [-self.image_length, *row.image_starts, len(row.input_ids)]
        if any(start + self.image_length > end for start, end in pairwise(edges)):
            raise ValueError(
                f"a row of {len(row.input_ids)} ids has pictures at {list(row.image_starts)}; the template needs "
                f"{self.image_length} positions for each"
            )

    def _fit(self, turns: Sequence[ImageTurn], language: str) -> tuple[PromptIds, int, bool]:
        """(the ids within max_prompt, the number of oldest turns left out, whether anything was left out)."""
        for first in range(len(turns)):
            prompt = self.prompt_ids(without_oldest(turns, first), language)
            if self._fits(prompt):
                return prompt, first, first > 0
        (last,) = without_oldest(turns, len(turns) - 1)
        low, high = 0, len(last.question)  # bisects the number of characters: low fits as far as known, high does not
        while high - low > 1:
            middle = (low + high) // 2
            fits = self._fits(self.prompt_ids([last.truncated(middle)], language))
            low, high = (middle, high) if fits else (low, middle)
        prompt = self.prompt_ids([last.truncated(low)], language)
        if not low or not self._fits(prompt):
            raise UserError(
                f"prompt.max_prompt: {self.prompt.max_prompt} ids are too few for any question in {language!r}; "
                "raise it"
            )
        return prompt, len(turns) - 1, True

    def _fits(self, prompt: PromptIds) -> bool:
        return prompt.length <= self.prompt.max_prompt

    def _answer_text(self, dialogue: Dialogue) -> str:
        """The answer to be learned. EmptyAnswer if there is none."""
        answer = self._clean(dialogue.answer or "")
        if not answer:
            raise EmptyAnswer(f"an answer is empty: the one to {dialogue.question[:60]!r}")
        return answer

    def _clean(self, answer: str) -> str:
        """The answer without spaces around it, and without the text that ends an answer."""
        parts = answer.split(self.prompt.end) if self.prompt.end else [answer]
        return " ".join(part.strip() for part in parts if part.strip())

    def _with_end(self, answer: list[int]) -> tuple[list[int], bool]:
        """(the answer with its end, at most max_answer ids; whether it was truncated)."""
        if not answer:
            raise EmptyAnswer("the tokenizer leaves nothing of the answer")
        whole = [*answer, self.end_id]
        return whole[: self.prompt.max_answer], len(whole) > self.prompt.max_answer

    def _image_ids(self) -> list[int]:
        """The ids at an image's positions, which its tokens replace."""
        return [self.tokenizer.pad_id] * self.image_length

    def _input_ids(self, prompt: PromptIds) -> list[int]:
        """The prompt with the positions of its images."""
        first, *others = prompt.segments
        return [*first, *(token for segment in others for token in [*self._image_ids(), *segment])]

    def _image_starts(self, prompt: PromptIds) -> tuple[int, ...]:
        """First positions of the images in `_input_ids`."""
        ends = accumulate(map(len, prompt.segments[:-1]))
        return tuple(end + number * self.image_length for number, end in enumerate(ends))


def _end_id(prompt: Prompt, tokenizer: Tokenizer) -> int:
    """The id that ends an answer. FieldError if `prompt.end` is several ids."""
    if prompt.end is None:
        return tokenizer.end_id
    named = tokenizer.find(prompt.end)
    ids = tokenizer.encode(prompt.end) if named is None else [named]
    if len(ids) != 1:
        reason = f"{prompt.end!r} is {len(ids)} ids ({', '.join(map(str, ids))}) for this tokenizer and must be one"
        raise FieldError("prompt.end", reason=f"{reason}; null takes the tokenizer's end token")
    return ids[0]
