"""VisualGLM-6B's prompts for ChatGLM-6B.

<img> image </img> earlier turns, 问：question 答： (or Q: A:), [gMASK] <sop> | answer <eop>. Everything before <sop> is
context; the loss counts <sop>, the answer and <eop>. Each picture has its own <img> </img>, where it stands.

Source: THUDM/VisualGLM-6B, finetune_visualglm.py and model/chat.py.
"""

import re
from collections.abc import Sequence

from vglm_train.batch import IGNORED
from vglm_train.config.language import Prompt
from vglm_train.prompt.chatglm import ChatGLMTokenizer
from vglm_train.prompt.dialogue import Dialogue, ImageTurn, place_images
from vglm_train.prompt.qformer_text import TextEncoder
from vglm_train.prompt.template import Context, Encoded, Template
from vglm_train.prompt.tokenizers import Tokenizer

MARKS = {"zh": ("问：", "答："), "en": ("Q:", "A:")}

_FULL_WIDTH = {",": "，", "!": "！", ":": "：", ";": "；", "?": "？"}
_BEHIND_HAN = re.compile("(?<=[\u4e00-\u9fff])[,!:;?]")
_BEFORE_HAN = re.compile("[,!:;?](?=[\u4e00-\u9fff])")


class VisualGLMTemplate(Template):
    """The image's places hold the padding id. Languages other than Chinese are asked in the English way."""

    tokenizer: ChatGLMTokenizer

    def __init__(
        self, prompt: Prompt, tokenizer: Tokenizer, image_length: int, text: TextEncoder | None = None
    ) -> None:
        assert isinstance(tokenizer, ChatGLMTokenizer)
        super().__init__(prompt, tokenizer, image_length, text)

    def context(self, turns: Sequence[ImageTurn], language: str) -> Context:
        """All ids before the answer: [gMASK] and <sop> are the last. A picture that leads a question precedes 问：."""
        ask, answer = MARKS.get(language, MARKS["en"])
        texts = [""]
        for turn in turns:
            first, *others = turn.around(ask, f"\n{answer}")
            texts = [*texts[:-1], texts[-1] + first, *others]
            texts[-1] += f"{turn.answer}\n" if turn is not turns[-1] else ""
        texts = [f"{'</img>' * (number > 0)}{text}<img>" for number, text in enumerate(texts)]
        texts[-1] = texts[-1].removesuffix("<img>")
        *pieces, last = [self.tokenizer.encode(text) for text in texts]
        return Context([*pieces, [*last, self.tokenizer.gmask_id, self.tokenizer.sop_id]])

    def encode(self, dialogue: Dialogue, split: float | None = None, whole: bool = False) -> Encoded:
        """A dialogue to learn from; `split`, `whole` change nothing. EmptyAnswer where there is nothing to learn."""
        words = self.tokenizer.encode(self._text(dialogue))
        context, _, shorter = self._fit(place_images(dialogue), dialogue.language)
        answer, cut = self._ended(words)
        prompt = self._joined(context)
        labels = [*[IGNORED] * (len(prompt) - 1), self.tokenizer.sop_id, *answer]
        starts, question = self._starts(context), self._question(dialogue)
        return Encoded([*prompt, *answer], starts, labels, shorter or cut, question)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of an answer's new ids, with the punctuation VisualGLM's chat gives it."""
        return chinese_punctuation(super().decode(ids))


def chinese_punctuation(text: str) -> str:
    """Full-width , ! : ; ? next to a Chinese character, which ChatGLM's tokenizer made half-width.

    The language model's placeholder for the year it was trained in is filled too, as in model/chat.py.
    """
    text = text.replace("[[训练时间]]", "2023年")
    for mark in (_BEHIND_HAN, _BEFORE_HAN):
        text = mark.sub(lambda found: _FULL_WIDTH[found[0]], text)
    return text
