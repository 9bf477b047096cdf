"""Floating point operations that a training step needs, to compare its speed with the hardware's peak.

p image tokens, c image width, d Q-Former width, q queries, t text tokens; a matrix product [a,b] x [b,c] is 2abc.
Backward is another product where a gradient passes through weights, and another where weights train. Recomputation does
not count, but the pass that embeds all pairs of `objective.itc.batch` does.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from torch import nn

from vglm_train.config.model import Model, QFormer, Vision
from vglm_train.model.language.packed import number_of_weights
from vglm_train.model.vision import measure
from vglm_train.model.visual_language import VisualLanguageModel

CROSS = r"(^|\.)(EncDecAttention|encoder_attn|crossattention)\.([kv]|[kv]_proj)$"
STAGE_ONE = ("itc", "itm", "itg")


@dataclass(frozen=True, slots=True)
class Cost:
    """Floating point operations of a step, forward and backward: of each sample, and of each token by kind.

    Kinds, as in `LossOutput.padded_tokens`: "visual", the queries of each picture; "sequence", what the language model
    reads; "answer", what the decoder of an encoder-decoder reads; "target", what the head predicts; "question", what
    the Q-Former reads with a picture.
    """

    per_sample: float = 0.0
    per_token: Mapping[str, float] = field(default_factory=dict)

    def of(self, samples: float, tokens: Mapping[str, float]) -> float:
        """Operations of `samples` samples whose sequences have `tokens` tokens, by kind."""
        return samples * self.per_sample + sum(tokens.get(kind, 0) * cost for kind, cost in self.per_token.items())


def flops_per_pair(
    config: Model,
    vocabulary: int,
    losses: Collection[str] = STAGE_ONE,
    encoder: bool = True,
    contrast: int | None = None,
) -> float:
    """Floating point operations of one pair in one stage-one step, forward and backward, of matrix products alone.

    losses: those of a weight above 0. encoder: False where the image encoder's outputs are stored. contrast:
    objective.itc.batch; with it the pass that embeds before ITC counts, and the similarities, which are many then.
    Every image is projected once for all passes, also where several ranks or groups project a negative again.
    """
    trained = qformer_flops(config, config.qformer.vocabulary or vocabulary, losses)
    first = 0.0 if contrast is None else _first_pass(config, losses)
    similarity = 2.0 * (contrast or 0) * config.qformer.queries * config.contrastive_width
    return encoder * vision_flops(config.vision) + first + 3 * (trained + similarity)


def generation_cost(config: Model, model: VisualLanguageModel, encoder: bool = True) -> Cost:
    """Later stages, by what trains in `model`.

    encoder: False where the image encoder's outputs are stored. Attention scores of the language model, 1 % at usual
    lengths, are left out. For a question that the Q-Former reads, those between it and the queries are counted in every
    block; the last block only attends to it.
    """
    q, below, qformer = config.qformer.queries, _trains(model.vision, model.vision_norm), _trains(model.qformer)
    image = encoder * vision_flops(config.vision) + 2 * _last_blocks(config.vision, len(model.vision.trained))
    queried = 1 + (below or qformer) + qformer
    projection = 2 * q * config.qformer.width * model.language.embed_width
    projection *= 1 + (below or qformer) + _trains(model.projection)
    picture = image + queried * (image_keys_flops(config) + _pass(config, q, 0, 0)) + projection
    tokens = {"visual": picture / q, **_language(model, below or qformer or _trains(model.projection))}
    if config.qformer.reads_question:
        tokens["question"] = queried * _question(config.qformer)
    return Cost(per_token=tokens)


def _language(model: VisualLanguageModel, gradient: bool) -> dict[str, float]:
    """The language model by kind of token. `gradient`: the visual tokens have one.

    It passes through every block above the lowest thing that trains; a block that holds this is counted whole.
    """
    language = model.language
    blocks, decoder = language.blocks(), language.decoder_blocks
    reading, writing = blocks[: len(blocks) - decoder], blocks[len(blocks) - decoder :]
    read = written = 0.0
    for block in reading:
        gradient |= _trains(block)
        read += _products([block], gradient)
    encoded = gradient  # the encoder's tokens have a gradient
    for block in writing:
        gradient |= _trains(block)
        cross = [module for name, module in block.named_modules() if re.search(CROSS, name)]  # of the encoder's tokens
        read += _products(cross, encoded)
        written += _products([block], gradient) - _products(cross, gradient)
    of_targets = _products(language.of_targets, gradient)
    inside = {id(parameter) for block in blocks for parameter in block.parameters()}
    head = any(p.requires_grad for p in language.parameters() if id(p) not in inside and p.ndim == 2)
    target = 2.0 * (1 + gradient + head) * language.embed_width * language.vocabulary + of_targets
    tokens = {"sequence": read - of_targets, "target": target}
    return tokens | {"answer": written} if decoder else tokens


def _trains(*modules: nn.Module) -> bool:
    return any(parameter.requires_grad for module in modules for parameter in module.parameters())


def _products(modules: Iterable[nn.Module], gradient: bool) -> float:
    """One token through the matrices of `modules`, forward and backward. `gradient`: of their input there is one."""
    products = 0.0
    for module in modules:
        others = sum(p.numel() for p in module.parameters() if p.ndim != 2)  # norms, biases, prefixes
        trained = sum(p.numel() for p in module.parameters() if p.ndim == 2 and p.requires_grad)
        products += (1 + gradient) * (number_of_weights(module) - others) + trained
    return 2 * products


def image_tokens(config: Vision) -> int:
    """Tokens of one image, with the class token of EVA and CLIP."""
    if config.family == "auto":
        return measure(config).tokens
    return (config.image_size // config.patch) ** 2 + (config.family != "siglip")


def vision_flops(config: Vision) -> float:
    """Forward of one image."""
    if config.family == "auto":
        return measure(config).flops
    patches = 2 * (config.image_size // config.patch) ** 2 * 3 * config.patch**2 * config.width
    return config.depth * _vision_block(config) + patches


def qformer_flops(config: Model, vocabulary: int, losses: Collection[str] = STAGE_ONE) -> float:
    """Forward of one pair: image keys, queries and text; for ITM three joint rows; for ITG the caption with its head.

    ITM samples its negatives by what ITC compares, so that is computed also without ITC.
    """
    q, t, width = config.qformer.queries, config.text.max_length, config.qformer.width
    flops = image_keys_flops(config) + _pass(config, q, 0, 0) + _pass(config, 0, t, 0)
    flops += 2 * (q + 1) * width * config.contrastive_width
    if "itm" in losses:
        unread = 4 * t * width * config.qformer.mlp_width  # the last block computes no MLP for the text
        flops += 3 * (_pass(config, q, t, 0) - unread)
    if "itg" in losses:
        flops += _pass(config, 0, t, q) + 2 * t * (width * width + width * vocabulary)
    return flops


def _first_pass(config: Model, losses: Collection[str]) -> float:
    """Forward of one pair in the pass that embeds before ITC: what the losses share, without their heads."""
    q, t, width = config.qformer.queries, config.text.max_length, config.qformer.width
    flops = image_keys_flops(config) + _pass(config, q, 0, 0) + _pass(config, 0, t, 0)
    return flops + ("itg" in losses) * _pass(config, 0, t, q) + 2 * (q + 1) * width * config.contrastive_width


def _last_blocks(config: Vision, count: int) -> float:
    """Forward of one image through so many of its encoder's last blocks."""
    if config.family == "auto":
        return sum(measure(config).blocks[config.depth - count :])
    return count * _vision_block(config)


def _vision_block(config: Vision) -> float:
    """Forward of one image through one block of its encoder."""
    p, c = image_tokens(config), config.width
    return 2 * p * (4 * c * c + 2 * c * config.mlp_width) + 4 * p * p * c


def image_keys_flops(config: Model) -> float:
    """One image's keys and values for every cross-attention."""
    return 2 * image_tokens(config.vision) * config.vision.width * 2 * config.qformer.width * _crossings(config.qformer)


def _question(config: QFormer) -> float:
    """Forward of one token of a question that is read with the queries, without attention within the question."""
    d = config.width
    attention = 2 * 4 * d * d + 4 * 2 * config.queries * d  # the queries attend to it, and it to them
    return config.layers * attention + (config.layers - 1) * 2 * 2 * d * config.mlp_width


def _pass(config: Model, queries: int, text: int, cached: int) -> float:
    """One row through all blocks: `queries` and `text` tokens, which also attend to `cached` ones."""
    d, tokens = config.qformer.width, queries + text
    block = 2 * tokens * (4 * d * d + 2 * d * config.qformer.mlp_width) + 4 * tokens * (tokens + cached) * d
    cross = 2 * queries * 2 * d * d + 4 * queries * image_tokens(config.vision) * d
    return config.qformer.layers * block + _crossings(config.qformer) * cross


def _crossings(config: QFormer) -> int:
    return -(-config.layers // config.cross_every)
