"""VisualGLM-6B's prompts for ChatGLM-6B.

<img> image </img> earlier turns, 问：question 答： (or Q: A:), [gMASK] <sop> | answer <eop>. Everything before <sop> is
context. The loss counts <sop>, the answer and <eop>. Each image has its own <img> </img>, where it is in the question.

Source: THUDM/VisualGLM-6B, finetune_visualglm.py and model/chat.py.
"""

import re
from collections.abc import Sequence

from vglm_train.batch import IGNORED
from vglm_train.config.language import Prompt
from vglm_train.prompt.chatglm import ChatGLMTokenizer
from vglm_train.prompt.dialogue import Dialogue, ImageTurn, image_turns
from vglm_train.prompt.qformer_text import QFormerTokenizer
from vglm_train.prompt.template import Encoded, PromptIds, Template
from vglm_train.prompt.tokenizers import Tokenizer

ROLES = {"zh": ("问：", "答："), "en": ("Q:", "A:")}  # what precedes a question, and an answer
PLACEHOLDER = "[[训练时间]]"  # of the year of the language model's training

_FULL_WIDTH = {",": "，", "!": "！", ":": "：", ";": "；", "?": "？"}
_AFTER_HAN = re.compile("(?<=[\u4e00-\u9fff])[,!:;?]")
_BEFORE_HAN = re.compile("[,!:;?](?=[\u4e00-\u9fff])")


class VisualGLMTemplate(Template):
    """The image's positions hold the padding id. Languages other than Chinese have the English roles."""

    tokenizer: ChatGLMTokenizer

    def __init__(
        self, prompt: Prompt, tokenizer: Tokenizer, image_length: int, text: QFormerTokenizer | None = None
    ) -> None:
        assert isinstance(tokenizer, ChatGLMTokenizer)
        super().__init__(prompt, tokenizer, image_length, text)

    def prompt_ids(self, turns: Sequence[ImageTurn], language: str) -> PromptIds:
        """All ids before the answer: [gMASK] and <sop> are the last. An image that leads a question precedes 问：."""
        question_role, answer_role = ROLES.get(language, ROLES["en"])
        texts = [""]
        for turn in turns:
            first, *others = turn.texts_around_images(question_role, f"\n{answer_role}")
            texts = [*texts[:-1], texts[-1] + first, *others]
            texts[-1] += f"{turn.answer}\n" if turn is not turns[-1] else ""
        texts = [f"{'</img>' * (number > 0)}{text}<img>" for number, text in enumerate(texts)]
        texts[-1] = texts[-1].removesuffix("<img>")
        *segments, last = [self.tokenizer.encode(text) for text in texts]
        return PromptIds([*segments, [*last, self.tokenizer.gmask_id, self.tokenizer.sop_id]])

    def encode(self, dialogue: Dialogue, split: float | None = None, history_targets: bool = False) -> Encoded:
        """A dialogue to learn from; the other arguments are ignored. EmptyAnswer if there is nothing to learn."""
        words = self.tokenizer.encode(self._answer_text(dialogue))
        prompt, _, shortened = self._fit(image_turns(dialogue), dialogue.language)
        answer, cut = self._with_end(words)
        ids, image_starts = self._input_ids(prompt), self._image_starts(prompt)
        labels = [*[IGNORED] * (len(ids) - 1), self.tokenizer.sop_id, *answer]
        return Encoded([*ids, *answer], image_starts, labels, shortened or cut, self._question_ids(dialogue))

    def polish(self, text: str) -> str:
        """With the punctuation of VisualGLM's chat."""
        return chinese_punctuation(super().polish(text))

    def undecided(self, text: str) -> int:
        """The beginning of the placeholder, or a sign that becomes full-width before a Chinese character."""
        begun = (n for n in range(len(PLACEHOLDER) - 1, 0, -1) if text.endswith(PLACEHOLDER[:n]))
        return next(begun, int(text[-1:] in _FULL_WIDTH))


def chinese_punctuation(text: str) -> str:
    """Full-width , ! : ; ? next to a Chinese character, because ChatGLM's tokenizer makes them half-width.

    As in model/chat.py, the language model's placeholder for the year of its training is replaced too.
    """
    text = text.replace(PLACEHOLDER, "2023年")
    for pattern in (_AFTER_HAN, _BEFORE_HAN):
        text = pattern.sub(lambda match: _FULL_WIDTH[match[0]], text)
    return text
