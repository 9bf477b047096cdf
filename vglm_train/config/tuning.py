"""Stage finetune: what of the whole model trains, by names, and what is added to the language model for it."""

from dataclasses import dataclass
from typing import Literal

from vglm_train.config.validation import FieldError, below_one, not_empty, positive, unique


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """Parameters whose whole name fits `match` (shell wildcards)."""

    match: str
    train: bool = True
    lr: float = 1.0  # times optim.lr

    def __post_init__(self) -> None:
        not_empty(self, "match")
        positive(self, "lr")


@dataclass(frozen=True, kw_only=True, slots=True)
class Lora:
    """Low-rank updates of a frozen language model's products (LoRA, arXiv:2106.09685): W + alpha / rank * B A."""

    rank: int = 10
    alpha: float = 10.0
    targets: tuple[str, ...] = ()  # last names of modules, with wildcards; empty: the attention's products
    layers: tuple[int, ...] = ()  # blocks, counted from 0; empty: all
    dropout: float = 0.0

    def __post_init__(self) -> None:
        positive(self, "rank", "alpha")
        below_one(self, "dropout")
        unique("layers", map(str, self.layers), "the block")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefix:
    """Trained keys and values before those of every block (P-tuning v2, arXiv:2110.07602)."""

    length: int = 8
    layers: tuple[int, ...] = ()  # blocks; empty: all

    def __post_init__(self) -> None:
        positive(self, "length")
        unique("layers", map(str, self.layers), "the block")


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionBlocks:
    """The image encoder's last blocks, trained in fp32; block k from the end at lr * decay ** k."""

    last: int
    decay: float = 0.9

    def __post_init__(self) -> None:
        positive(self, "last", "decay")
        if self.decay > 1:
            raise FieldError("decay", reason=f"must be at most 1, found {self.decay}: earlier blocks learn slower")


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

    rules: tuple[Rule, ...] = RULES
    lora: Lora | None = None
    prefix: Prefix | None = None
    vision_blocks: VisionBlocks | None = None
    quantize: Literal["nf4"] | None = None  # the language model's frozen products in 4 bits (QLoRA, arXiv:2305.14314)

    def __post_init__(self) -> None:
        if not any(rule.train for rule in self.rules) and not (self.lora or self.prefix or self.vision_blocks):
            raise FieldError("rules", "lora", reason="nothing would train: give a rule with train, lora or prefix")
