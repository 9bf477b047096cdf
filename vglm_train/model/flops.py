"""How much arithmetic a training step must do: the denominator of every utilisation and floor.

p image tokens, c image width, d Q-Former width, q queries, t text places; a product [a,b] x [b,c] is 2abc.
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
    """Floating point operations of a step, forward and backward: so many a sample, and a place of each kind.

    Kinds, as in `LossOutput.tokens`: "sequence", what the language model reads; "answer", what an encoder-decoder's
    decoder reads; "question", what the Q-Former reads with a picture.
    """

    sample: float
    tokens: Mapping[str, float] = field(default_factory=dict)

    def of(self, samples: float, places: Mapping[str, float]) -> float:
        """Operations of so many samples whose sequences have so many places."""
        return samples * self.sample + sum(places.get(kind, 0) * cost for kind, cost in self.tokens.items())


def flops_per_pair(config: Model, vocabulary: int) -> float:
    """Floating point operations of one pair in one stage-one step, forward and backward, products alone.

    Backward is twice forward for what trains and nothing for the frozen encoder; recomputation does not count.
    Every image is projected once for all passes, also where several ranks project a negative again.
    """
    return vision_flops(config.vision) + 3 * qformer_flops(config, config.qformer.vocabulary or vocabulary)


def generation_cost(config: Model, blocks: Sequence[nn.Module], head: int, decoder: int = 0) -> Cost:
    """Stage two: image, queries and projection a sample; the frozen language model a place, padding included.

    `blocks`: the language model's, of which the last `decoder` read the answer and see the encoder's places by
    cross-attention; `head`: weights of its head, counted at every place of a sequence (or an answer, if there is a
    decoder) though it runs on targets alone. Gradients flow through the frozen model and not into it, so its backward
    is as long as its forward. Attention's own products, 1 % at such lengths, are left out; a Q-Former's question counts
    those between it and the queries, in every block, whose last one does nothing else with it but attend.
    """
    q, width = config.qformer.queries, config.qformer.width
    keys = 2 * image_tokens(config.vision) * config.vision.width * 2 * width * _crossings(config.qformer)
    trained = keys + _pass(config, q, 0, 0)
    reading, writing = blocks[: len(blocks) - decoder], blocks[len(blocks) - decoder :]
    seen = sum(map(_cross_weights, writing))  # keys and values of the encoder's places
    read = sum(map(number_of_weights, reading)) + seen
    written = sum(map(number_of_weights, writing)) - seen
    places = {"sequence": 4.0 * (read + (0 if decoder else head))}
    if decoder:
        places["answer"] = 4.0 * (written + head)
    if config.qformer.reads_question:
        places["question"] = 3.0 * _question(config.qformer)
    return Cost(vision_flops(config.vision) + 3 * trained, places)


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
    """Forward of one place of a question that is read with the queries; within the question nothing is counted."""
    d = config.width
    attention = 2 * 4 * d * d + 4 * 2 * config.queries * d  # the queries see it, and it sees them
    return config.layers * attention + (config.layers - 1) * 2 * 2 * d * config.mlp_width


def _cross_weights(block: nn.Module) -> int:
    """Weights of a decoder's block that work on the encoder's places, by the names that transformers gives them."""
    found = (module for name, module in block.named_modules() if re.search(CROSS, name))
    return sum(number_of_weights(module) for module in found)


def _pass(config: Model, queries: int, text: int, cached: int) -> float:
    """One row through all blocks: `queries` and `text` places, which also see `cached` ones."""
    d, places = config.qformer.width, queries + text
    block = 2 * places * (4 * d * d + 2 * d * config.qformer.mlp_width) + 4 * places * (places + cached) * d
    cross = 2 * queries * 2 * d * d + 4 * queries * image_tokens(config.vision) * d
    return config.qformer.layers * block + _crossings(config.qformer) * cross


def _crossings(config: QFormer) -> int:
    return -(-config.layers // config.cross_every)
