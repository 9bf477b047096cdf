"""ChatGLM-6B (THUDM/chatglm-6b; GLM, arXiv:2103.10360): attention is bidirectional in the context, causal after it.

b rows, s tokens of the sequence, m targets, e embedding width, v vocabulary, d width of a head.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vglm_train.batch import IGNORED, PromptBatch
from vglm_train.config.language import Language
from vglm_train.model.language.base import LanguageModel, left_padded
from vglm_train.model.language.cache import KeyValueCache
from vglm_train.model.language.fp16_gradients import embedding_dtype
from vglm_train.model.language.glm.sat import Transformer, build_network
from vglm_train.model.language.glm.slot_decoder import SlotDecoder
from vglm_train.model.language.glm.slots import SlotPool, glm_positions
from vglm_train.model.language.packed import keep_weights
from vglm_train.model.vision import DTYPES

SOP, PAD = 130004, 3  # as released: <sop> begins the answer
SMALLER_SOP = -6  # a vocabulary too small for the released id: the sixth from its end
STD = 0.02
ALIGNMENT = 16  # elements


class Layout(NamedTuple):
    """Lengths, positions and mask of a batch of contexts and answers."""

    context: Tensor  # [b] int64: tokens before the first <sop>, or all where there is none
    length: Tensor  # [b] int64: tokens that are not padding
    positions: Tensor  # [b,2,s] int64, as SAT's `get_position_ids`
    visible: Tensor  # [b,1,s,s] bool: row i attends to column j


class ChatGlm(LanguageModel):
    """ChatGLM on SAT's modules, names of weights and forward; see LanguageModel.

    `sop_id`: the token that ends the context; None: 130004 as released, or the sixth id from the end of a vocabulary
    smaller than that. Embeddings of an fp16 model are fp32 outside it, see `GradientScaling`.
    """

    def __init__(self, config: Language, sop_id: int | None = None) -> None:
        super().__init__()
        self.dtype = DTYPES[config.dtype]
        self.embed_width, self.vocabulary = config.width, config.vocabulary
        self.pad_id, self.heads, self.positions = PAD, config.heads, config.positions
        released = SOP if config.vocabulary > SOP else config.vocabulary + SMALLER_SOP
        self.sop_id = released if sop_id is None else sop_id
        self.prefix = 0  # length of the longest trained prefix
        self.uses_slots = False  # also without a GPU, where that gains nothing
        self.slots = SlotPool(self)
        self.network = build_network(config, self.dtype)
        if config.weights is None:
            self.reset()
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def reset(self) -> None:
        """SAT's initialisation: normal of 0.02, smaller with depth where a block adds to the residual."""
        layers = self.network.transformer.layers
        for module in self.network.modules():
            if isinstance(getattr(module, "weight", None), nn.Parameter) and not isinstance(module, nn.LayerNorm):
                nn.init.normal_(module.weight, std=STD)
            if isinstance(getattr(module, "bias", None), nn.Parameter):
                nn.init.zeros_(module.bias)
        for layer in layers:
            layer.attention.dense.weight.div_(math.sqrt(2 * len(layers)))
            layer.mlp.dense_4h_to_h.weight.div_(math.sqrt(2 * len(layers)))

    def embed(self, input_ids: Tensor) -> Tensor:
        """Ids [b,s] -> [b,s,e]; fp32 of an fp16 model."""
        embeds: Tensor = self.network.transformer.word_embeddings(input_ids).to(embedding_dtype(self.dtype))
        return embeds

    def score(self, embeds: Tensor, batch: PromptBatch) -> tuple[Tensor, Tensor]:
        """See LanguageModel; the logits at position i-1 predict the label at position i. fp32 of an fp16 model.

        ValueError where a row has targets but no <sop>: all of it would be context, where every token sees the rest.
        """
        indices = batch.target_places(apart=False)  # [m]
        layout = self.layout(batch)
        self._check_sop(batch.labels, layout)
        scaling = self.gradient_scaling()
        with torch.autocast(embeds.device.type, enabled=False):
            logits = self._logits(scaling.enter(embeds), layout.positions, layout.visible, indices - 1)
            return scaling.leave(logits), batch.labels.flatten()[indices]

    def decoder(self, embeds: Tensor, batch: PromptBatch, max_new: int) -> "CachedDecoder | SlotDecoder":
        """See LanguageModel; a prompt ends with <sop>. Rotary positions have no end."""
        decoder = CachedDecoder(self, embeds.to(self.dtype), *self._lengths(batch))
        return SlotDecoder(self, decoder) if self.whole and (self.uses_slots or embeds.is_cuda) else decoder

    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks in order."""
        layers: Sequence[nn.Module] = self.network.transformer.layers
        return layers

    @property
    def of_targets(self) -> Sequence[nn.Module]:
        return [self.blocks()[-1].mlp]  # type: ignore[list-item]

    def attentions(self) -> Sequence[tuple[nn.Module, int, int]]:
        return [(block.attention, self.heads, self.embed_width // self.heads) for block in self.blocks()]  # type: ignore[misc]

    def read_prefixes(self, length: int) -> None:
        self.prefix = max(self.prefix, length)

    def recompute(self, on: bool) -> None:
        """Whether a block's activations are computed again in backward instead of kept."""
        transformer: Transformer = self.network.transformer
        transformer.recompute, transformer.random = on, self.random
        keep_weights(self, on)

    def layout(self, batch: PromptBatch) -> Layout:
        """Mask and positions of a batch. The ids at image positions and in padding are not used."""
        context, length = self._lengths(batch)
        index = torch.arange(batch.input_ids.shape[1], device=length.device).expand_as(batch.input_ids)
        return layout(index, context, length)

    def _lengths(self, batch: PromptBatch) -> tuple[Tensor, Tensor]:
        """Tokens before the first <sop> [b], or all where there is none, and tokens that are not padding [b]."""
        ids, real = batch.input_ids, batch.attention_mask
        starts = (ids == self.sop_id) & real & ~batch.visual_mask
        length = real.sum(1)
        index = torch.arange(ids.shape[1], device=ids.device)
        return torch.where(starts, index, ids.shape[1]).amin(1).minimum(length), length

    def _check_sop(self, labels: Tensor, layout: Layout) -> None:
        """On the CPU only: a GPU would have to be waited for."""
        if labels.is_cuda:
            return
        leaks = (labels != IGNORED).any(1) & (layout.context >= layout.length)
        if leaks.any():
            raise ValueError(
                f"row {int(leaks.nonzero()[0])} has an answer but no <sop> (id {self.sop_id}): the model would read it "
                "from its context. The tokenizer is not this model's."
            )

    def _logits(
        self, embeds: Tensor, positions: Tensor, visible: Tensor, rows: Tensor, cache: KeyValueCache | None = None
    ) -> Tensor:
        """[b,s,e], positions [b,2,s], visible [b,1,s,t] -> logits [m,v] at the flattened positions `rows` [m]."""
        bias = _additive(F.pad(visible, (0, self.prefix), value=True), self.dtype)
        rotation = self.network.get_mixin("chatglm-attn").rotary_emb(positions)
        out = self.network(
            input_ids=positions[:, 0],  # SAT reads its size only
            position_ids=positions,
            embeds=embeds,
            rotation=rotation,
            bias=bias,
            rows=rows,
            cache=cache,
        )
        logits: Tensor = out[0]
        return logits


class CachedDecoder:
    """Continues rows of prompts: see `decoding.Decoder`. Positions are explicit, whatever the columns."""

    joins = True

    def __init__(self, model: ChatGlm, embeds: Tensor, context: Tensor, length: Tensor) -> None:
        """embeds [b,s,e], padded on the right to any width; `context` and `length` as in Layout."""
        self.model, self.context = model, context
        self.length = length  # [r] tokens in the cache, those of the answer too
        self.embeds, index = left_padded(embeds, length)
        self.layout = layout(index, context, length)
        self.cache = KeyValueCache(len(model.blocks()))

    @classmethod
    def of(
        cls, model: ChatGlm, context: Tensor, length: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> Self:
        """Of rows that are in the middle of an answer: keys and values [r,h,t,d] a block, aligned on the right."""
        decoder = cls.__new__(cls)
        decoder.model, decoder.context, decoder.length = model, context, length
        decoder.cache = KeyValueCache(len(keys))
        for block, (key, value) in enumerate(zip(keys, values, strict=True)):
            decoder.cache.append(block, key, value)
        return decoder

    @torch.no_grad()
    def start(self) -> Tensor:
        """Logits [b,v] of the first new ids."""
        b, s = self.embeds.shape[:2]
        last = torch.arange(1, b + 1, device=self.embeds.device) * s - 1
        logits = self._logits(self.embeds, self.layout.positions, self.layout.visible, last)
        del self.embeds, self.layout
        return logits

    @torch.no_grad()
    def step(self, ids: Tensor) -> Tensor:
        """ids [r] just chosen -> logits [r,v] of the next ones."""
        positions = torch.stack(glm_positions(self.length, self.context), 1)[..., None]  # [r,2,1]
        self.length = self.length + 1
        columns = self.cache.columns + 1
        index = torch.arange(columns, device=ids.device)
        visible = index >= columns - self.length[:, None]  # [r,t]
        embeds = self.model.embed(ids)[:, None].to(self.model.dtype)
        return self._logits(embeds, positions, visible[:, None, None], torch.arange(len(ids), device=ids.device))

    def select(self, rows: Tensor) -> None:
        """Keep the rows numbered `rows` [r] int64, repeats allowed."""
        self.context, self.length = self.context[rows], self.length[rows]
        self.cache.select(rows, self.cache.columns - int(self.length.max()) if len(rows) else 0)

    def join(self, other: Self) -> None:
        """Put the rows of another decoder of this model behind these."""
        self.cache.join(other.cache)
        self.context = torch.cat((self.context, other.context))
        self.length = torch.cat((self.length, other.length))

    def _logits(self, embeds: Tensor, positions: Tensor, visible: Tensor, rows: Tensor) -> Tensor:
        with torch.autocast(embeds.device.type, enabled=False):
            return self.model._logits(embeds, positions, visible, rows, self.cache)


def layout(index: Tensor, context: Tensor, length: Tensor) -> Layout:
    """Of rows whose positions have these indices [b,s] in their row; below 0, and from `length` on, is padding."""
    s = index.shape[1]
    real = (index >= 0) & (index < length[:, None])
    positions = torch.stack(glm_positions(index.clamp(min=0), context[:, None]), 1)
    visible = (index[:, None] < context[:, None, None]) | (index[:, None] <= index[..., None])  # [b,s,s]
    itself = torch.eye(s, dtype=torch.bool, device=index.device)
    return Layout(context, length, positions, (visible & real[:, None] | itself)[:, None])  # no row is empty


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """[b,1,s,t] bool -> zeros and -inf, made once a pass; aligned, or SDPA would copy it in each block."""
    *rows, t = visible.shape
    bias = torch.zeros(*rows, t + -t % ALIGNMENT, dtype=dtype, device=visible.device)[..., :t]
    return bias.masked_fill_(~visible, float("-inf"))
