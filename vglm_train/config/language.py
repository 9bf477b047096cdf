"""The frozen language model of stage two, how it is prompted, and how it answers.

Defaults are VisualGLM-6B's: ChatGLM-6B, its prompt format and its chat settings.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from vglm_train.config.validation import NOT_EMPTY, NOT_NEGATIVE, POSITIVE, FieldError, Range, check_limits, multiple


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """The frozen language model. The numbers give ChatGLM's shape; the other families take theirs from config.json."""

    family: Annotated[Literal["chatglm", "causal", "seq2seq"], "causal: OPT and the like; seq2seq: T5 and the like"] = (
        "chatglm"
    )
    weights: Annotated[
        str | None, "ChatGLM: SAT or Hugging Face folder; others: Hugging Face folder; null: random", NOT_EMPTY
    ] = None
    config: Annotated[str | None, "causal, seq2seq without weights: a config.json that gives the shape", NOT_EMPTY] = (
        None
    )
    tokenizer: Annotated[
        str | None, "ice_text.model, or a tokenizer folder; null: the one in the folder `weights`", NOT_EMPTY
    ] = None
    dtype: Annotated[Literal["bf16", "fp16", "fp32"], "of its weights and arithmetic"] = "bf16"
    layers: Annotated[int, "blocks", POSITIVE] = 28
    width: Annotated[int, "channels; a multiple of heads", POSITIVE] = 4096
    heads: Annotated[int, "attention heads", POSITIVE] = 32
    mlp_width: Annotated[int, "channels inside the feed-forward", POSITIVE] = 16384
    vocabulary: Annotated[int, "rows of the word table", POSITIVE] = 130528
    positions: Annotated[int, "longest sequence, image and answer included", POSITIVE] = 2048

    def __post_init__(self) -> None:
        check_limits(self)
        multiple(self, "width", of="heads", why="every attention head takes the same share of the width")
        if self.family != "chatglm" and not (self.weights or self.config):
            reason = f"{self.family} takes its shape from a Hugging Face folder; give language.weights, or"
            raise FieldError("config", "weights", "family", reason=f"{reason} language.config for random weights")
        if not (self.tokenizer or self.weights):
            reason = "needed where language.weights is null: ice_text.model for ChatGLM, a tokenizer folder otherwise"
            raise FieldError("tokenizer", "weights", reason=reason)


@dataclass(frozen=True, kw_only=True, slots=True)
class Questions:
    """What is asked about a picture that comes with captions only, a language each; empty: nothing."""

    en: Annotated[str, "in English"] = "Describe this image."
    zh: Annotated[str, "in Chinese"] = "描述这张图片。"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """How a picture, a dialogue and an answer become one sequence of ids.

    Lengths count text: the images' places are added to `max_prompt` and are never cut.
    """

    style: Annotated[Literal["visualglm", "blip2"], "whose prompt format"] = "visualglm"
    questions: Annotated[Questions, "asked about a picture that comes with captions only"] = field(
        default_factory=Questions
    )
    asked: Annotated[str, "style blip2: how a question is put; {} stands for it"] = "Question: {} Answer:"
    end: Annotated[
        str | None,
        "text that ends an answer, such as a line's end for BLIP-2's OPT; null: the tokenizer's end token",
    ] = None
    prefix_split: Annotated[
        bool, "family seq2seq: the first words of a caption are given, the rest is the answer (BLIP-2)"
    ] = False
    max_prompt: Annotated[int, "tokens of text before the answer; what is longer is cut", POSITIVE] = 64
    max_answer: Annotated[int, "tokens of the answer; what is longer is cut", POSITIVE] = 32
    max_images: Annotated[int, "pictures of a dialogue; a record that shows more counts as damaged", POSITIVE] = 1

    def __post_init__(self) -> None:
        check_limits(self)
        if self.asked.count("{}") != 1:
            raise FieldError("asked", reason=f"must hold {{}} once, where the question goes; found {self.asked!r}")
        if self.end == "":
            raise FieldError("end", reason="must not be empty; null takes the tokenizer's end token")
        if self.prefix_split and self.style != "blip2":
            raise FieldError("prefix_split", "style", reason="belongs to style blip2 with a seq2seq language model")


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """How an answer is written. Greedy unless `sample`; with `beams` above 1, beam search."""

    max_new: Annotated[int, "tokens of an answer at most", POSITIVE] = 32
    min_new: Annotated[int, "tokens before an answer may end; not above max_new", NOT_NEGATIVE] = 0
    beams: Annotated[int, "beams of beam search; 1: none", POSITIVE] = 1
    length_penalty: Annotated[float, "beam scores are divided by length to this power"] = 1.0
    sample: Annotated[bool, "draw tokens at random instead of taking the likeliest"] = False
    temperature: Annotated[float, "sample: logits are divided by it", POSITIVE] = 1.0
    top_p: Annotated[
        float, "sample: the smallest set of tokens whose probability reaches this", Range(above=0, most=1)
    ] = 1.0
    top_k: Annotated[int, "sample: most likely tokens kept; 0: all", NOT_NEGATIVE] = 0
    repetition_penalty: Annotated[float, "logits of tokens that were written are divided by it", POSITIVE] = 1.0
    seed: Annotated[int, "sample: what the draws depend on", NOT_NEGATIVE] = 0

    def __post_init__(self) -> None:
        check_limits(self)
        if self.sample and self.beams > 1:
            raise FieldError("beams", "sample", reason="beam search does not sample; set beams 1 or sample false")
        if self.min_new > self.max_new:
            raise FieldError("max_new", "min_new", reason=f"{self.max_new} is below min_new, which is {self.min_new}")


CHAT = Decoding(max_new=512, sample=True, temperature=0.95, top_p=0.7, top_k=30, repetition_penalty=1.2)
"""VisualGLM-6B's settings for chat (`model/chat.py`)."""
