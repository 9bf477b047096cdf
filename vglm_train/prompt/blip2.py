"""BLIP-2's prompts for Hugging Face models.

Decoder-only: image, bos (if the tokenizer puts one), prompt | answer, end. bos is a target where the prompt is empty.
Encoder-decoder: image, prompt, given words, </s> for the encoder; the (rest of the) answer and its end as labels.
Several turns: prompt answer. prompt answer. prompt, without a second stop behind an answer that has one.

Source: salesforce/LAVIS, blip2_models/blip2_opt.py and blip2_t5.py; the split: its issue 139; several turns:
examples/blip2_instructed_generation.ipynb.
"""

from collections.abc import Sequence

from vglm_train.batch import IGNORED
from vglm_train.prompt.dialogue import Dialogue, ImageTurn, place_images
from vglm_train.prompt.template import Context, Encoded, Template
from vglm_train.prompt.tokenizers import HfTokenizer

STOPS = tuple(".!?。！？…")


class Blip2Template(Template):
    """What both kinds of language model share: a question is put as `prompt.asked` says, an empty one not at all."""

    tokenizer: HfTokenizer

    def context(self, turns: Sequence[ImageTurn], language: str) -> Context:
        """All ids before the answer. A picture that leads a question stands before its prompt, and before bos.

        The blank before the answer belongs to the answer; there is none in Chinese.
        """
        blank, stop = ("", "。") if language == "zh" else (" ", ".")
        script = _Script(self.tokenizer)
        for number, turn in enumerate(turns):
            for place_of, text in enumerate(self._put(turn)):
                if place_of:
                    script.picture()
                if number == 0 and place_of == turn.leading:
                    script.pieces[-1] += self.tokenizer.front
                script.write(blank + text if text and script.before else text)
            if number < len(turns) - 1:
                script.answer(self._behind(script.before, self._clean(turn.answer), language))
                script.write("" if turn.answer.rstrip().endswith(STOPS) else stop)
        return Context(script.pieces, tuple(script.answers), script.before)

    def answer_ids(self, before: str, answer: str, language: str) -> list[int]:
        """An answer's ids as they come behind the text before it."""
        return continued(self.tokenizer, before, self._behind(before, answer, language))

    def _behind(self, before: str, answer: str, language: str) -> str:
        """The answer with a blank between words, none in Chinese."""
        return f" {answer}" if before and language != "zh" else answer

    def _put(self, turn: ImageTurn) -> list[str]:
        """The prompt's texts around the turn's pictures."""
        if not turn.question:
            return [""] * (len(turn.images) + 1)
        before, _, behind = self.prompt.asked.format("\0").partition("\0")
        *texts, last = turn.around(before, behind)
        return [*texts, last.rstrip()]


class CausalTemplate(Blip2Template):
    """For decoder-only models."""

    learns_history = True

    def encode(self, dialogue: Dialogue, split: float | None = None, whole: bool = False) -> Encoded:
        """A dialogue to learn from; `split` is not looked at. EmptyAnswer where there is nothing to learn.

        With `whole` an earlier answer's end is the label of the place behind it, where its stop or the next prompt
        stands: what is written there does not depend on whether the dialogue went on.
        """
        text = self._text(dialogue)
        context, _, shorter = self._fit(place_images(dialogue), dialogue.language)
        answer, cut = self._ended(self.answer_ids(context.before, text, dialogue.language))
        given, starts = self._joined(context), self._starts(context)
        labels = [IGNORED] * len(given)
        if not context.before:
            first = max(1, len(given) - len(context.pieces[-1]))
            labels[first:] = given[first:]
        edges = [0, *(start + self.image_length for start in starts)]  # where the pieces begin
        for piece, first, behind in context.answers if whole and self.learns_history else ():
            start, end = edges[piece] + first, edges[piece] + behind
            labels[start : end + 1] = [*given[start:end], self.end_id]
        labels = [*labels[: len(given)], *answer]
        return Encoded([*given, *answer], starts, labels, shorter or cut, self._question(dialogue))


class SeqToSeqTemplate(Blip2Template):
    """For encoder-decoder models."""

    separate_answer = True

    def context(self, turns: Sequence[ImageTurn], language: str) -> Context:
        """All ids of the encoder."""
        context = super().context(turns, language)
        *pieces, last = context.pieces
        return Context([*pieces, [*last, *self.tokenizer.behind]], context.answers, context.before)

    def encode(self, dialogue: Dialogue, split: float | None = None, whole: bool = False) -> Encoded:
        """A dialogue to learn from, its first words given if `split` is; `whole` is not looked at.

        EmptyAnswer where there is nothing to learn.
        """
        words = self.tokenizer.encode(self._text(dialogue))
        context, _, shorter = self._fit(place_images(dialogue), dialogue.language)
        *pieces, last = context.pieces
        close = len(last) - len(self.tokenizer.behind)
        kept = words[: self.prompt.max_answer]
        first = self._prefix(len(kept), context.length, split)
        given = Context([*pieces, [*last[:close], *kept[:first], *last[close:]]])
        labels, cut = self._ended(words[first:])
        question = self._question(dialogue)
        return Encoded(self._joined(given), self._starts(given), labels, shorter or cut, question)

    def _prefix(self, words: int, used: int, split: float | None) -> int:
        """How many of the words are given: 1 to their midpoint, as far as max_prompt has room; 0 without a split."""
        middle = words // 2
        if split is None or not self.prompt.prefix_split or not middle:
            return 0
        return min(1 + int(split * middle), self.prompt.max_prompt - used)


class _Script:
    """Texts, pictures and answers in a row, as ids."""

    def __init__(self, tokenizer: HfTokenizer) -> None:
        self.tokenizer = tokenizer
        self.pieces: list[list[int]] = [[]]
        self.answers: list[tuple[int, int, int]] = []  # as in Context
        self.before = ""  # what was written last; nothing behind a picture

    def write(self, text: str) -> None:
        if text:
            self.pieces[-1] += continued(self.tokenizer, self.before, text)
            self.before = text

    def answer(self, text: str) -> None:
        """A text whose place is remembered."""
        start = len(self.pieces[-1])
        self.write(text)
        self.answers.append((len(self.pieces) - 1, start, len(self.pieces[-1])))

    def picture(self) -> None:
        self.pieces.append([])
        self.before = ""


def continued(tokenizer: HfTokenizer, before: str, text: str) -> list[int]:
    """A text's ids as they come behind another text; its own where the two would share one."""
    if not before:
        return tokenizer.encode(text)
    start, whole = tokenizer.encode(before), tokenizer.encode(before + text)
    if whole[: len(start)] == start and len(whole) > len(start):
        return whole[len(start) :]
    return tokenizer.encode(text.removeprefix(" "))
