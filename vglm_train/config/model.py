"""Shapes and weights of what is built: image encoder, Q-Former, text side.

Defaults are BLIP-2's published ones (EVA ViT-g/14, BERT-base Q-Former, 32 queries).
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from vglm_train.config.language import Language
from vglm_train.config.validation import BELOW_ONE, NOT_EMPTY, POSITIVE, FieldError, check_limits, multiple

EIGHT_BIT_UNIT = 16  # channels: what a product in fp8 is cut into


@dataclass(frozen=True, kw_only=True, slots=True)
class Vision:
    """The frozen image encoder. The numbers give its shape; for CLIP and SigLIP they must equal config.json's.

    Family auto reads them from its folder's config.json: the defaults here are ViT-g's.
    """

    family: Annotated[
        Literal["eva", "clip", "siglip", "auto"],
        "which architecture; auto: what the Hugging Face folder `weights` holds (DINOv2, DINOv3, SigLIP 2, ViT, "
        "ConvNeXt V2, ...), whose files also give the numbers below and how data.image makes its pixels",
    ] = "eva"
    image_size: Annotated[
        int, "pixels a side; a multiple of patch. Family auto: the published size, or a multiple of patch to which the "
        "encoder can interpolate its positions",
        POSITIVE,
    ] = 224  # fmt: skip
    patch: Annotated[int, "pixels a side of a patch", POSITIVE] = 14
    width: Annotated[int, "channels; a multiple of heads", POSITIVE] = 1408
    depth: Annotated[int, "blocks kept; BLIP-2 drops the last of ViT-g's 40", POSITIVE] = 39
    heads: Annotated[int, "attention heads", POSITIVE] = 16
    mlp_width: Annotated[int, "channels inside the feed-forward", POSITIVE] = 6144
    dtype: Annotated[
        Literal["bf16", "fp16", "fp32", "fp8"],
        "of its weights and arithmetic; fp8: products in e4m3, family eva, to train on Hopper GPUs (H100, H200)",
    ] = "bf16"
    weights: Annotated[
        str | None, "a file (safetensors, or LAVIS's .pth), or a Hugging Face folder; null: random", NOT_EMPTY
    ] = None
    config: Annotated[
        str | None,
        "family auto where weights is null or not here: a folder with config.json and preprocessor_config.json",
        NOT_EMPTY,
    ] = None

    def __post_init__(self) -> None:
        check_limits(self)
        if self.config and self.family != "auto":
            raise FieldError("config", "family", reason=f"is for family auto; {self.family} has its shape from numbers")
        if self.family != "auto":  # see config.encoder: some were published with another size
            multiple(self, "image_size", of="patch", why="the picture is cut into whole patches")
        multiple(self, "width", of="heads", why="every attention head takes the same share of the width")
        if self.dtype == "fp8":
            self._check_fp8()

    def _check_fp8(self) -> None:
        if self.family != "eva":
            reason = f"fp8 is for the family eva; {self.family} runs in bf16, fp16 or fp32"
            raise FieldError("dtype", "family", reason=reason)
        for name in ("width", "mlp_width"):
            if (size := getattr(self, name)) % EIGHT_BIT_UNIT:
                reason = f"fp8 needs widths in multiples of {EIGHT_BIT_UNIT}, but {name} is {size}"
                raise FieldError("dtype", name, reason=reason)


@dataclass(frozen=True, kw_only=True, slots=True)
class QFormer:
    """The trained bridge: BERT blocks, learned queries, cross-attention in every `cross_every`-th block."""

    layers: Annotated[int, "blocks", POSITIVE] = 12
    width: Annotated[int, "channels; a multiple of heads", POSITIVE] = 768
    heads: Annotated[int, "attention heads", POSITIVE] = 12
    mlp_width: Annotated[int, "channels inside the feed-forward", POSITIVE] = 3072
    queries: Annotated[int, "learned queries: what a picture becomes", POSITIVE] = 32
    cross_every: Annotated[int, "every so many blocks, one attends to the picture", POSITIVE] = 2
    positions: Annotated[int, "longest text that the position table holds", POSITIVE] = 512
    dropout: Annotated[float, "of attention and feed-forward", BELOW_ONE] = 0.1
    spread: Annotated[
        float,
        "standard deviation of fresh weights: BERT's, for 768 channels; 128 learn sooner from 0.06",
        POSITIVE,
    ] = 0.02
    vocabulary: Annotated[int | None, "rows of the word table; null: what the tokenizer has", POSITIVE] = None
    weights: Annotated[
        str | None, "BERT weights, or a bundle of an earlier stage, to start from; null: random", NOT_EMPTY
    ] = None
    reads_question: Annotated[
        bool, "with a language model: queries read the question too (InstructBLIP), by model.text"
    ] = False
    text_weights: Annotated[
        str | None,
        "with reads_question: a stage-one bundle whose text side is taken; null: that of weights",
        NOT_EMPTY,
    ] = None

    def __post_init__(self) -> None:
        if self.text_weights and not self.reads_question:
            raise FieldError(
                "text_weights", "reads_question", reason="is read with reads_question alone; set that true"
            )
        check_limits(self)
        multiple(self, "width", of="heads", why="every attention head takes the same share of the width")


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """How captions become ids for the Q-Former."""

    tokenizer: Annotated[str, "a vocab.txt, a tokenizer folder, or a hub name", NOT_EMPTY] = "bert-base-uncased"
    max_length: Annotated[int, "tokens, those at the ends included; at least 3, with language_token 4"] = 32
    processor: Annotated[
        Literal["blip", "plain"], "how a caption is cleaned; blip: as LAVIS, for English only; plain: spaces alone"
    ] = "blip"
    language_token: Annotated[bool, "the second token tells [EN] or [ZH]; it is never a target"] = False

    def __post_init__(self) -> None:
        check_limits(self)
        least = 4 if self.language_token else 3
        if self.max_length < least:
            tokens = "[CLS], the language token, a word and [SEP]" if self.language_token else "[CLS], a word and [SEP]"
            raise FieldError("max_length", reason=f"must be at least {least} to hold {tokens}, found {self.max_length}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """What is built: image encoder, Q-Former, text side, language model."""

    vision: Annotated[Vision, "the frozen image encoder"] = field(default_factory=Vision)
    qformer: Annotated[QFormer, "the trained bridge"] = field(default_factory=QFormer)
    text: Annotated[Text, "how captions become ids for the Q-Former"] = field(default_factory=Text)
    contrastive_width: Annotated[int, "channels in which ITC compares image and text", POSITIVE] = 256
    language: Annotated[Language | None, "the frozen language model; stages generate and finetune"] = None

    def __post_init__(self) -> None:
        check_limits(self)
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
