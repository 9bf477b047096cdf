"""Stage finetune: what of the whole model trains, by names, and what is added to the language model for it."""

from dataclasses import dataclass
from typing import Annotated, Literal

from vglm_train.config.validation import BELOW_ONE, NOT_EMPTY, POSITIVE, FieldError, Range, check_limits, unique


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """Parameters whose whole name fits `match` (shell wildcards)."""

    match: Annotated[str, "shell wildcards, such as language.*", NOT_EMPTY]
    train: Annotated[bool, "whether they train"] = True
    lr: Annotated[float, "their learning rate, times optim.lr", POSITIVE] = 1.0

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lora:
    """Low-rank updates of a frozen language model's products (LoRA, arXiv:2106.09685): W + alpha / rank * B A."""

    rank: Annotated[int, "of the update", POSITIVE] = 10
    alpha: Annotated[float, "the update is multiplied by alpha / rank", POSITIVE] = 10.0
    targets: Annotated[tuple[str, ...], "last names of modules, with wildcards; empty: the attention's products"] = ()
    layers: Annotated[tuple[int, ...], "blocks, counted from 0; empty: all"] = ()
    dropout: Annotated[float, "of the update's input", BELOW_ONE] = 0.0

    def __post_init__(self) -> None:
        check_limits(self)
        unique("layers", map(str, self.layers), "the block")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefix:
    """Trained keys and values before those of every block (P-tuning v2, arXiv:2110.07602)."""

    length: Annotated[int, "keys and values of each block", POSITIVE] = 8
    layers: Annotated[tuple[int, ...], "blocks, counted from 0; empty: all"] = ()

    def __post_init__(self) -> None:
        check_limits(self)
        unique("layers", map(str, self.layers), "the block")


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionBlocks:
    """The image encoder's last blocks, trained in fp32; block k from the end at lr * decay ** k."""

    last: Annotated[int, "how many", POSITIVE]
    decay: Annotated[
        float,
        "learning rate of a block over that of the one after it",
        Range(above=0, most=1, why="earlier blocks learn slower"),
    ] = 0.9

    def __post_init__(self) -> None:
        check_limits(self)


RULES = (
    Rule(match="vision.*", train=False),
    Rule(match="language.*", train=False),
    Rule(match="*"),
)
"""As stage two: what lies between the towers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """The first rule that fits a name decides; a rule that fits none is an error.

    What `lora`, `prefix` and `vision_blocks` name trains whatever the rules say of the towers.
    """

    rules: Annotated[tuple[Rule, ...], "which parameters train; the first that fits decides"] = RULES
    lora: Annotated[Lora | None, "low-rank updates of the language model"] = None
    prefix: Annotated[Prefix | None, "trained prefixes of the language model (P-tuning v2)"] = None
    vision_blocks: Annotated[VisionBlocks | None, "train the image encoder's last blocks"] = None
    quantize: Annotated[
        Literal["nf4"] | None, "the language model's frozen products in 4 bits (QLoRA, arXiv:2305.14314)"
    ] = None

    def __post_init__(self) -> None:
        if not any(rule.train for rule in self.rules) and not (self.lora or self.prefix or self.vision_blocks):
            raise FieldError("rules", "lora", reason="nothing would train: give a rule with train, lora or prefix")
