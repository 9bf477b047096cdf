"""BLIP-2's prompts for Hugging Face models.

Decoder-only: image, bos (if the tokenizer adds one), prompt | answer, end. bos is a target if the prompt is empty.
Encoder-decoder: image, prompt, first words of the answer (prefix_split), </s> for the encoder; the rest of the answer
and its end as labels.
Several turns: prompt answer. prompt answer. prompt. An answer that ends with a stop gets no second one.

Source: salesforce/LAVIS, blip2_models/blip2_opt.py and blip2_t5.py; the split: its issue 139; several turns:
examples/blip2_instructed_generation.ipynb.
"""

from collections.abc import Sequence

from vglm_train.batch import IGNORED
from vglm_train.prompt.dialogue import Dialogue, ImageTurn, image_turns
from vglm_train.prompt.template import AnswerSpan, Encoded, PromptIds, Template
from vglm_train.prompt.tokenizers import HfTokenizer

STOPS = tuple(".!?。！？…")


class Blip2Template(Template):
    """What both kinds of language model share. `prompt.asked` words a question; an empty question has no words."""

    tokenizer: HfTokenizer

    def prompt_ids(self, turns: Sequence[ImageTurn], language: str) -> PromptIds:
        """All ids before the answer. An image that leads a question precedes its prompt and bos.

        The space before an answer belongs to the answer. There is none in Chinese.
        """
        space, stop = ("", "。") if language == "zh" else (" ", ".")
        writer = _PromptWriter(self.tokenizer)
        for number, turn in enumerate(turns):
            for images_before, text in enumerate(self._question_texts(turn)):
                if images_before:
                    writer.add_image()
                if number == 0 and images_before == turn.leading_images:
                    writer.segments[-1] += self.tokenizer.prefix_ids
                writer.add_text(space + text if text and writer.last_text else text)
            if number < len(turns) - 1:
                writer.add_answer(self._spaced(writer.last_text, self._clean(turn.answer), language))
                writer.add_text("" if turn.answer.rstrip().endswith(STOPS) else stop)
        return PromptIds(writer.segments, tuple(writer.answers), writer.last_text)

    def answer_ids(self, last_text: str, answer: str, language: str) -> list[int]:
        """The ids of an answer after the text before it."""
        return encode_after(self.tokenizer, last_text, self._spaced(last_text, answer, language))

    def _spaced(self, last_text: str, answer: str, language: str) -> str:
        """The answer with a space before it; without one in Chinese and at the very start."""
        return f" {answer}" if last_text and language != "zh" else answer

    def _question_texts(self, turn: ImageTurn) -> list[str]:
        """The texts before, between and after the turn's images, in the words of `prompt.asked`."""
        if not turn.question:
            return [""] * (len(turn.image_offsets) + 1)
        before, _, after = self.prompt.asked.format("\0").partition("\0")
        *texts, last = turn.texts_around_images(before, after)
        return [*texts, last.rstrip()]


class CausalTemplate(Blip2Template):
    """For decoder-only models."""

    learns_history = True

    def encode(self, dialogue: Dialogue, split: float | None = None, history_targets: bool = False) -> Encoded:
        """A dialogue to learn from; `split` is ignored. EmptyAnswer if there is nothing to learn.

        With `history_targets`, the end token is the label at the position after an earlier answer, where the input has
        the answer's stop or the next prompt. Every answer is thus learned with its end.
        """
        text = self._answer_text(dialogue)
        prompt, _, shortened = self._fit(image_turns(dialogue), dialogue.language)
        answer, cut = self._with_end(self.answer_ids(prompt.last_text, text, dialogue.language))
        ids, image_starts = self._input_ids(prompt), self._image_starts(prompt)
        labels = [IGNORED] * len(ids)
        if not prompt.last_text:
            first = max(1, len(ids) - len(prompt.segments[-1]))
            labels[first:] = ids[first:]
        segment_starts = [0, *(start + self.image_length for start in image_starts)]
        for span in prompt.history_answers if history_targets and self.learns_history else ():
            start, end = (segment_starts[span.segment] + position for position in (span.start, span.end))
            labels[start : end + 1] = [*ids[start:end], self.end_id]
        labels = [*labels[: len(ids)], *answer]
        return Encoded([*ids, *answer], image_starts, labels, shortened or cut, self._question_ids(dialogue))


class SeqToSeqTemplate(Blip2Template):
    """For encoder-decoder models."""

    separate_answer = True

    def prompt_ids(self, turns: Sequence[ImageTurn], language: str) -> PromptIds:
        """All ids of the encoder."""
        prompt = super().prompt_ids(turns, language)
        *segments, last = prompt.segments
        return PromptIds([*segments, [*last, *self.tokenizer.suffix_ids]], prompt.history_answers, prompt.last_text)

    def encode(self, dialogue: Dialogue, split: float | None = None, history_targets: bool = False) -> Encoded:
        """A dialogue to learn from; `history_targets` is ignored. EmptyAnswer if there is nothing to learn.

        With `split` the first words of the answer are part of the prompt.
        """
        words = self.tokenizer.encode(self._answer_text(dialogue))
        prompt, _, shortened = self._fit(image_turns(dialogue), dialogue.language)
        *segments, last = prompt.segments
        end = len(last) - len(self.tokenizer.suffix_ids)
        kept = words[: self.prompt.max_answer]
        first = self._prefix_length(len(kept), prompt.length, split)
        with_prefix = PromptIds([*segments, [*last[:end], *kept[:first], *last[end:]]])
        labels, cut = self._with_end(words[first:])
        ids, image_starts = self._input_ids(with_prefix), self._image_starts(with_prefix)
        return Encoded(ids, image_starts, labels, shortened or cut, self._question_ids(dialogue))

    def _prefix_length(self, words: int, used: int, split: float | None) -> int:
        """How many of the answer's ids join the prompt of `used` ids: 1 to their midpoint, as max_prompt allows.

        0 without a split.
        """
        middle = words // 2
        if split is None or not self.prompt.prefix_split or not middle:
            return 0
        return min(1 + int(split * middle), self.prompt.max_prompt - used)


class _PromptWriter:
    """Collects texts, images and answers, in their order, as the fields of PromptIds."""

    def __init__(self, tokenizer: HfTokenizer) -> None:
        self.tokenizer = tokenizer
        self.segments: list[list[int]] = [[]]
        self.answers: list[AnswerSpan] = []
        self.last_text = ""  # empty after an image

    def add_text(self, text: str) -> None:
        if text:
            self.segments[-1] += encode_after(self.tokenizer, self.last_text, text)
            self.last_text = text

    def add_answer(self, text: str) -> None:
        """A text whose position is recorded."""
        start = len(self.segments[-1])
        self.add_text(text)
        self.answers.append(AnswerSpan(len(self.segments) - 1, start, len(self.segments[-1])))

    def add_image(self) -> None:
        self.segments.append([])
        self.last_text = ""


def encode_after(tokenizer: HfTokenizer, before: str, text: str) -> list[int]:
    """The ids of a text after another text; if the two would share an id, those of the text alone."""
    if not before:
        return tokenizer.encode(text)
    start, whole = tokenizer.encode(before), tokenizer.encode(before + text)
    if whole[: len(start)] == start and len(whole) > len(start):
        return whole[len(start) :]
    return tokenizer.encode(text.removeprefix(" "))
