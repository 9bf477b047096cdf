"""VisualGLM-6B's own calls, for programs that were written for it.

model = VisualGLMChat(vglm_train.load("BUNDLE"))
response, history = model.chat(tokenizer, "photo.jpg", "描述这张图片。", history=[])
"""

from collections.abc import Iterator, Sequence
from typing import Unpack

from vglm_train.chat.images import Picture
from vglm_train.chat.model import ChatModel
from vglm_train.chat.sampling import Sampling

Pairs = list[tuple[str, str]]


class VisualGLMChat:
    """A `ChatModel` under VisualGLM's names. Histories are pairs of question and answer about one picture."""

    def __init__(self, model: ChatModel) -> None:
        self.model = model

    def chat(
        self,
        tokenizer: object,
        image_path: Picture,
        query: str,
        history: Sequence[tuple[str, str]] = (),
        *,
        max_length: int | None = None,
        do_sample: bool = True,
        **sampling: Unpack[Sampling],
    ) -> tuple[str, Pairs]:
        """Response, and the history with it. `tokenizer` is not used: the bundle has its own.

        max_length: tokens of prompt and answer together. UserError as `ChatModel.chat`.
        """
        for response, pairs in self.stream_chat(
            tokenizer, image_path, query, history, max_length=max_length, do_sample=do_sample, **sampling
        ):
            last = response, pairs
        return last

    def stream_chat(
        self,
        tokenizer: object,
        image_path: Picture,
        query: str,
        history: Sequence[tuple[str, str]] = (),
        *,
        max_length: int | None = None,
        do_sample: bool = True,
        **sampling: Unpack[Sampling],
    ) -> Iterator[tuple[str, Pairs]]:
        """The response so far, and the history with it, whenever there is more of it."""
        if not do_sample:
            sampling["sample"] = False
        asked = self.model.ask(image_path, query, history, **sampling)
        if max_length is not None:
            asked = asked.within(max_length)
        text, before = "", [(turn.question, turn.answer) for turn in asked.turns]
        stream = self.model.pieces(asked)
        for piece in stream:
            text += piece
            yield text, [*before, (query, text)]
        if not text:
            yield text, [*before, (query, text)]
