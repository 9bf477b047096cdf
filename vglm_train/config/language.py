"""The frozen language model of stage two, how it is prompted, and how it answers.

Defaults are VisualGLM-6B's: ChatGLM-6B, its prompt format and its chat settings.
"""

from dataclasses import dataclass, field
from typing import Literal

from vglm_train.config.validation import FieldError, multiple, not_empty, not_negative, positive


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """The frozen language model. The numbers give ChatGLM's shape; the other families take theirs from config.json."""

    family: Literal["chatglm", "causal", "seq2seq"] = "chatglm"
    weights: str | None = None  # ChatGLM: SAT or Hugging Face folder; others: Hugging Face folder. none: random
    config: str | None = None  # causal, seq2seq without weights: a config.json that gives the shape
    tokenizer: str | None = None  # ice_text.model, or a tokenizer folder; none: the one in the folder `weights`
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    layers: int = 28
    width: int = 4096
    heads: int = 32
    mlp_width: int = 16384
    vocabulary: int = 130528
    positions: int = 2048  # longest sequence, image and answer included

    def __post_init__(self) -> None:
        positive(self, "layers", "width", "heads", "mlp_width", "vocabulary", "positions")
        multiple(self, "width", of="heads", why="every attention head takes the same share of the width")
        not_empty(self, "weights", "config", "tokenizer")
        if self.family != "chatglm" and not (self.weights or self.config):
            reason = f"{self.family} takes its shape from a Hugging Face folder; give language.weights, or"
            raise FieldError("config", "weights", "family", reason=f"{reason} language.config for random weights")
        if not (self.tokenizer or self.weights):
            reason = "needed where language.weights is null: ice_text.model for ChatGLM, a tokenizer folder otherwise"
            raise FieldError("tokenizer", "weights", reason=reason)


@dataclass(frozen=True, kw_only=True, slots=True)
class Questions:
    """What is asked about a picture that comes with captions only, a language each; empty: nothing."""

    en: str = "Describe this image."
    zh: str = "描述这张图片。"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """How a picture, a dialogue and an answer become one sequence of ids.

    Lengths count text: the images' places are added to `max_prompt` and are never cut.
    """

    style: Literal["visualglm", "blip2"] = "visualglm"
    questions: Questions = field(default_factory=Questions)
    asked: str = "Question: {} Answer:"  # blip2: how a question is put
    end: str | None = None  # text that ends an answer, such as "\n" for BLIP-2's OPT; none: the tokenizer's end token
    prefix_split: bool = False  # seq2seq: the first words of a caption are given, the rest is the answer (BLIP-2)
    max_prompt: int = 64
    max_answer: int = 32
    max_images: int = 1  # pictures of a dialogue; a record that shows more counts as damaged

    def __post_init__(self) -> None:
        positive(self, "max_prompt", "max_answer", "max_images")
        if self.asked.count("{}") != 1:
            raise FieldError("asked", reason=f"must hold {{}} once, where the question goes; found {self.asked!r}")
        if self.end == "":
            raise FieldError("end", reason="must not be empty; null takes the tokenizer's end token")
        if self.prefix_split and self.style != "blip2":
            raise FieldError("prefix_split", "style", reason="belongs to style blip2 with a seq2seq language model")


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """How an answer is written. Greedy unless `sample`; with `beams` above 1, beam search."""

    max_new: int = 32  # ids at most
    beams: int = 1
    length_penalty: float = 1.0  # beam scores are divided by length to this power
    sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0  # smallest set of tokens whose probability reaches this
    top_k: int = 0  # most likely tokens kept; 0: all
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        positive(self, "max_new", "beams", "temperature", "top_p", "repetition_penalty")
        not_negative(self, "top_k", "seed")
        if self.top_p > 1:
            raise FieldError("top_p", reason=f"must be at most 1, found {self.top_p}")
        if self.sample and self.beams > 1:
            raise FieldError("beams", "sample", reason="beam search does not sample; set beams 1 or sample false")


CHAT = Decoding(max_new=512, sample=True, temperature=0.95, top_p=0.7, top_k=30, repetition_penalty=1.2)
"""VisualGLM-6B's settings for chat (`model/chat.py`)."""
