"""Floating point operations that a training step needs, to compare its speed with the hardware's peak.

p image tokens, c image width, d Q-Former width, q queries, t text tokens; a matrix product [a,b] x [b,c] is 2abc.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from vglm_train.config.model import Model, QFormer, Vision
from vglm_train.model.language.nf4 import number_of_weights

CROSS = r"(^|\.)(EncDecAttention|encoder_attn|crossattention)\.([kv]|[kv]_proj)$"


@dataclass(frozen=True, slots=True)
class Cost:
    """Floating point operations of a step, forward and backward: of each sample, and of each token by kind.

    Kinds, as in `LossOutput.padded_tokens`: "sequence", what the language model reads; "answer", what the decoder of an
    encoder-decoder reads; "question", what the Q-Former reads with a picture.
    """

    per_sample: float
    per_token: Mapping[str, float] = field(default_factory=dict)

    def of(self, samples: float, tokens: Mapping[str, float]) -> float:
        """Operations of `samples` samples whose sequences have `tokens` tokens, by kind."""
        return samples * self.per_sample + sum(tokens.get(kind, 0) * cost for kind, cost in self.per_token.items())


def flops_per_pair(config: Model, vocabulary: int) -> float:
    """Floating point operations of one pair in one stage-one step, forward and backward, of matrix products alone.

    Backward is twice forward for what trains and nothing for the frozen encoder; recomputation does not count.
    Every image is projected once for all passes, also where several ranks project a negative again.
    """
    return vision_flops(config.vision) + 3 * qformer_flops(config, config.qformer.vocabulary or vocabulary)


def generation_cost(config: Model, blocks: Sequence[nn.Module], head: int, decoder: int = 0) -> Cost:
    """Stage two: image, queries and projection per sample; the frozen language model per token, padding included.

    `blocks`: the language model's. The last `decoder` of them read the answer, and the encoder's tokens by
    cross-attention. `head`: weights of its head, counted at every token of a sequence (or an answer, if there is a
    decoder) though it runs on targets alone. Gradients flow through the frozen model and not into it, so its backward
    costs as much as its forward. Attention scores, 1 % at such lengths, are left out. For a question that the Q-Former
    reads, those between it and the queries are counted in every block; the last block only attends to it.
    """
    q, width = config.qformer.queries, config.qformer.width
    keys = 2 * image_tokens(config.vision) * config.vision.width * 2 * width * _crossings(config.qformer)
    trained = keys + _pass(config, q, 0, 0)
    reading, writing = blocks[: len(blocks) - decoder], blocks[len(blocks) - decoder :]
    cross = sum(map(_cross_weights, writing))  # keys and values of the encoder's tokens
    read = sum(map(number_of_weights, reading)) + cross
    written = sum(map(number_of_weights, writing)) - cross
    per_token = {"sequence": 4.0 * (read + (0 if decoder else head))}
    if decoder:
        per_token["answer"] = 4.0 * (written + head)
    if config.qformer.reads_question:
        per_token["question"] = 3.0 * _question(config.qformer)
    return Cost(vision_flops(config.vision) + 3 * trained, per_token)


def image_tokens(config: Vision) -> int:
    """Tokens of one image, with the class token of EVA and CLIP."""
    return (config.image_size // config.patch) ** 2 + (config.family != "siglip")


def vision_flops(config: Vision) -> float:
    """Forward of one image."""
    p, c = image_tokens(config), config.width
    block = 2 * p * (4 * c * c + 2 * c * config.mlp_width) + 4 * p * p * c
    patches = 2 * (config.image_size // config.patch) ** 2 * 3 * config.patch**2 * c
    return config.depth * block + patches


def qformer_flops(config: Model, vocabulary: int) -> float:
    """Forward of one pair: image keys, queries, text, three joint rows and the caption with its head."""
    q, t, width = config.qformer.queries, config.text.max_length, config.qformer.width
    keys = 2 * image_tokens(config.vision) * config.vision.width * 2 * width * _crossings(config.qformer)
    passes = _pass(config, q, 0, 0) + _pass(config, 0, t, 0) + 3 * _pass(config, q, t, 0) + _pass(config, 0, t, q)
    head = 2 * t * (width * width + width * vocabulary)
    projections = 2 * (q + 1) * width * config.contrastive_width
    return keys + passes + head + projections


def _question(config: QFormer) -> float:
    """Forward of one token of a question that is read with the queries, without attention within the question."""
    d = config.width
    attention = 2 * 4 * d * d + 4 * 2 * config.queries * d  # the queries attend to it, and it to them
    return config.layers * attention + (config.layers - 1) * 2 * 2 * d * config.mlp_width


def _cross_weights(block: nn.Module) -> int:
    """Weights of a decoder's block that are applied to the encoder's tokens, by transformers' names."""
    modules = (module for name, module in block.named_modules() if re.search(CROSS, name))
    return sum(number_of_weights(module) for module in modules)


def _pass(config: Model, queries: int, text: int, cached: int) -> float:
    """One row through all blocks: `queries` and `text` tokens, which also attend to `cached` ones."""
    d, tokens = config.qformer.width, queries + text
    block = 2 * tokens * (4 * d * d + 2 * d * config.qformer.mlp_width) + 4 * tokens * (tokens + cached) * d
    cross = 2 * queries * 2 * d * d + 4 * queries * image_tokens(config.vision) * d
    return config.qformer.layers * block + _crossings(config.qformer) * cross


def _crossings(config: QFormer) -> int:
    return -(-config.layers // config.cross_every)
