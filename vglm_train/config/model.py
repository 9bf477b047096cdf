"""Shapes and weights of what is built: image encoder, Q-Former, text side.

Defaults are BLIP-2's published ones (EVA ViT-g/14, BERT-base Q-Former, 32 queries).
"""

from dataclasses import dataclass, field
from typing import Literal

from vglm_train.config.language import Language
from vglm_train.config.validation import FieldError, below_one, multiple, not_empty, positive


@dataclass(frozen=True, kw_only=True, slots=True)
class Vision:
    """The frozen image encoder. The numbers give its shape; for CLIP and SigLIP they must equal config.json's."""

    family: Literal["eva", "clip", "siglip"] = "eva"
    image_size: int = 224
    patch: int = 14
    width: int = 1408
    depth: int = 39  # blocks kept; BLIP-2 drops the last of ViT-g's 40
    heads: int = 16
    mlp_width: int = 6144
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    weights: str | None = None  # a file (safetensors, or LAVIS's .pth), or a Hugging Face folder; none: random

    def __post_init__(self) -> None:
        positive(self, "image_size", "patch", "width", "depth", "heads", "mlp_width")
        multiple(self, "image_size", of="patch", why="the picture is cut into whole patches")
        multiple(self, "width", of="heads", why="every attention head takes the same share of the width")
        not_empty(self, "weights")


@dataclass(frozen=True, kw_only=True, slots=True)
class QFormer:
    """The trained bridge: BERT blocks, learned queries, cross-attention in every `cross_every`-th block."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    mlp_width: int = 3072
    queries: int = 32
    cross_every: int = 2
    positions: int = 512  # longest text the position table holds
    dropout: float = 0.1
    spread: float = 0.02  # standard deviation of fresh weights: BERT's, for 768 channels; 128 learn sooner from 0.06
    vocabulary: int | None = None  # none: what the tokenizer has
    weights: str | None = None  # BERT weights, or a bundle of an earlier stage, to start from; none: random
    reads_question: bool = False  # with a language model: queries read the question too (InstructBLIP), by model.text
    text_weights: str | None = None  # with reads_question: a stage-one bundle whose text side is taken; none: weights'

    def __post_init__(self) -> None:
        if self.text_weights and not self.reads_question:
            raise FieldError(
                "text_weights", "reads_question", reason="is read with reads_question alone; set that true"
            )
        positive(self, "layers", "width", "heads", "mlp_width", "queries", "cross_every", "positions", "vocabulary")
        positive(self, "spread")
        multiple(self, "width", of="heads", why="every attention head takes the same share of the width")
        below_one(self, "dropout")
        not_empty(self, "weights", "text_weights")


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """How captions become ids for the Q-Former."""

    tokenizer: str = "bert-base-uncased"  # a vocab.txt, a tokenizer folder, or a hub name
    max_length: int = 32
    processor: Literal["blip", "plain"] = "blip"  # blip is for English only
    language_token: bool = False  # second token tells [EN] or [ZH]; never a target

    def __post_init__(self) -> None:
        not_empty(self, "tokenizer")
        least = 4 if self.language_token else 3
        if self.max_length < least:
            tokens = "[CLS], the language token, a word and [SEP]" if self.language_token else "[CLS], a word and [SEP]"
            raise FieldError("max_length", reason=f"must be at least {least} to hold {tokens}, found {self.max_length}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    vision: Vision = field(default_factory=Vision)
    qformer: QFormer = field(default_factory=QFormer)
    text: Text = field(default_factory=Text)
    contrastive_width: int = 256
    language: Language | None = None  # stage generate only

    def __post_init__(self) -> None:
        positive(self, "contrastive_width")
        if self.qformer.reads_question and self.language is None:
            reason = "is for a Q-Former before a language model; stage align always reads text. Leave it out"
            raise FieldError("qformer.reads_question", "language", reason=reason)
        reads = self.language is None or self.qformer.reads_question  # else the Q-Former has no text side
        if reads and self.text.max_length > self.qformer.positions:
            reason = (
                f"{self.text.max_length} is longer than qformer.positions {self.qformer.positions}: "
                "a token beyond the position table has no embedding"
            )
            raise FieldError("text.max_length", "qformer.positions", reason=reason)
