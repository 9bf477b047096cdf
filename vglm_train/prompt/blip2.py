"""BLIP-2's prompts for Hugging Face models.

Decoder-only: image, bos (if the tokenizer puts one), prompt | answer, end. bos is a target where the prompt is empty.
Encoder-decoder: image, prompt, given words, </s> for the encoder; the (rest of the) answer and its end as labels.

Source: salesforce/LAVIS, blip2_models/blip2_opt.py and blip2_t5.py; the split: its issue 139; several turns:
examples/blip2_instructed_generation.ipynb.
"""

from collections.abc import Sequence

from vglm_train.batch import IGNORED
from vglm_train.prompt.dialogue import Dialogue, Turn
from vglm_train.prompt.template import Context, Encoded, Template
from vglm_train.prompt.tokenizers import HfTokenizer


class Blip2Template(Template):
    """What both kinds of language model share: a question is put as `prompt.asked` says, an empty one not at all."""

    tokenizer: HfTokenizer

    def question_text(self, question: str, history: Sequence[Turn]) -> str:
        """Earlier turns and the question as one text; the blank before the answer belongs to the answer."""
        ask = self.prompt.asked.format
        turns = [f"{ask(turn.question).rstrip()} {turn.answer}." for turn in history]
        return " ".join([*turns, ask(question).rstrip()] if question else turns)

    def answer_ids(self, prompt: str, answer: str, language: str) -> list[int]:
        """An answer's ids as they come behind the prompt: with a blank between words, none in Chinese."""
        blank = " " if prompt and language != "zh" else ""
        start, whole = self.tokenizer.encode(prompt), self.tokenizer.encode(f"{prompt}{blank}{answer}")
        if prompt and whole[: len(start)] == start and len(whole) > len(start):
            return whole[len(start) :]
        return self.tokenizer.encode(answer)


class CausalTemplate(Blip2Template):
    """For decoder-only models."""

    def context(self, question: str, history: Sequence[Turn], language: str) -> Context:
        """All ids before the answer."""
        return [], [*self.tokenizer.front, *self.tokenizer.encode(self.question_text(question, history))]

    def encode(self, dialogue: Dialogue, split: float | None = None) -> Encoded:
        """A dialogue to learn from; `split` is not looked at. EmptyAnswer where there is nothing to learn."""
        text = self._text(dialogue)
        (_, behind), shorter = self._fit(dialogue.question, dialogue.history, dialogue.language)
        asked = self.question_text(dialogue.question, dialogue.history)
        answer, cut = self._ended(self.answer_ids(asked, text, dialogue.language))
        given = self._joined([], behind)
        seen = len(given) if asked else self.image_length
        labels = [*[IGNORED] * seen, *given[seen:], *answer]
        return Encoded([*given, *answer], self._visual([]), labels, shorter or cut)


class SeqToSeqTemplate(Blip2Template):
    """For encoder-decoder models."""

    separate_answer = True

    def context(self, question: str, history: Sequence[Turn], language: str) -> Context:
        """All ids of the encoder."""
        asked = self.tokenizer.encode(self.question_text(question, history))
        return [], [*self.tokenizer.front, *asked, *self.tokenizer.behind]

    def encode(self, dialogue: Dialogue, split: float | None = None) -> Encoded:
        """A dialogue to learn from, its first words given if `split` is. EmptyAnswer where nothing is to be learnt."""
        words = self.tokenizer.encode(self._text(dialogue))
        (_, behind), shorter = self._fit(dialogue.question, dialogue.history, dialogue.language)
        close = len(behind) - len(self.tokenizer.behind)
        kept = words[: self.prompt.max_answer]
        first = self._prefix(len(kept), len(behind), split)
        given = [*behind[:close], *kept[:first], *behind[close:]]
        labels, cut = self._ended(words[first:])
        return Encoded(self._joined([], given), self._visual([]), labels, shorter or cut)

    def _prefix(self, words: int, used: int, split: float | None) -> int:
        """How many of the words are given: 1 to their midpoint, as far as max_prompt has room; 0 without a split."""
        middle = words // 2
        if split is None or not self.prompt.prefix_split or not middle:
            return 0
        return min(1 + int(split * middle), self.prompt.max_prompt - used)
