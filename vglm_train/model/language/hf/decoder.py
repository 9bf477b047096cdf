"""Decoders of transformers' models: their own forward pass over a cache whose rows may come and go.

Tokens of a row are next to each other and end in the last column, see `cache.py`. So a model that takes positions is
given each row's own, and for one with relative positions distances are right as they are.

b prompts, r rows, s tokens of the prompt, t columns of the cache, e embedding width, v vocabulary.
"""

import inspect
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache, DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin
from transformers.modeling_outputs import BaseModelOutput

from vglm_train.model.language.base import left_padded
from vglm_train.model.language.cache import KeyValues
from vglm_train.model.language.hf.head import head_on

CACHES = ("past_key_values", "cache_params")  # what a forward pass calls its cache


class Layer(DynamicLayer):
    """One block of transformers' cache over `KeyValues`. A sliding window is in the mask; all columns are kept."""

    def __init__(self, **options: Any) -> None:
        DynamicLayer.__init__(self, **options)
        self.held = KeyValues()

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append [r,h,s,d] -> everything so far [r,h,t,d]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return self._now(self.held.append(key_states, value_states))

    def select(self, rows: Tensor, unused: int) -> None:
        """As `KeyValues.select`."""
        if self.is_initialized:
            self.held.select(rows, unused)
            self._now(self.held.views)

    def join(self, other: Self) -> None:
        """As `KeyValues.join`."""
        if self.is_initialized:
            self.held.join(other.held)
            self._now(self.held.views)

    def _now(self, views: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        self.keys, self.values = views
        return views


class CausalDecoder:
    """Continues rows of prompts of a decoder-only model: see `decoding.Decoder`.

    A model that keeps a state in place of keys and values (Mamba and its like) keeps transformers' own cache, and its
    rows cannot be joined.
    """

    def __init__(self, model: Any, embeds: Tensor, length: Tensor) -> None:
        """embeds [b,s,e] in the model's dtype, padded on the right to any width; length [b]."""
        self.model, self.length = model, length
        self.embeds, self.index = left_padded(embeds, length)
        self.columns = 0
        own = DynamicCache(config=model.config)
        self.joins = not any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in own.layers)
        self.cache: Any = Cache(layer_class_to_replicate=Layer) if self.joins else own
        known = inspect.signature(model.forward).parameters
        self.positions = "position_ids" in known
        self.cache_name = next(name for name in CACHES if name in known)

    @torch.no_grad()
    def start(self) -> Tensor:
        """Logits [b,v] of the first new ids."""
        logits = self._logits({"inputs_embeds": self.embeds}, self.index)
        del self.embeds, self.index
        return logits

    @torch.no_grad()
    def step(self, ids: Tensor) -> Tensor:
        """ids [r] just chosen -> logits [r,v] of the next ones."""
        position = self.length[:, None]
        self.length = self.length + 1
        return self._logits({"input_ids": ids[:, None]}, position)

    def select(self, rows: Tensor) -> None:
        """Keep the rows numbered `rows` [r] int64, repeats allowed."""
        self.length = self.length[rows]
        if not self.joins:
            self.cache.reorder_cache(rows)
            return
        unused = self.columns - int(self.length.max()) if len(rows) else 0
        self.columns -= unused
        for layer in self.cache.layers:
            layer.select(rows, unused)

    def join(self, other: Self) -> None:
        """Put the rows of another decoder of this model behind these."""
        assert self.joins
        for layer, more in zip(self.cache.layers, other.cache.layers, strict=True):
            layer.join(more)
        self.columns = max(self.columns, other.columns)
        self.length = torch.cat((self.length, other.length))

    def _logits(self, inputs: dict[str, Tensor], position: Tensor) -> Tensor:
        """Of the last column [r,v]; position [r,s] of the new tokens in their rows, below 0 for padding."""
        new = position.shape[1]
        self.columns += new
        index = torch.arange(self.columns, device=position.device)
        mask = index >= self.columns - self.length[:, None]
        if self.positions:
            inputs["position_ids"] = position.clamp(min=0)
        cached = {"attention_mask": mask.long(), self.cache_name: self.cache, "use_cache": True}
        return last_logits(self.model, inputs | cached, len(position), new)


class RereadDecoder:
    """Continues rows of a decoder-only model that has no cache (the first GPT): every step reads all of a row again."""

    joins = True

    def __init__(self, model: Any, embeds: Tensor, length: Tensor) -> None:
        """As of CausalDecoder."""
        self.model, self.length = model, length
        self.embeds, _ = left_padded(embeds, length)

    @torch.no_grad()
    def start(self) -> Tensor:
        """Logits [b,v] of the first new ids."""
        rows, columns = self.embeds.shape[:2]
        index = torch.arange(columns, device=self.embeds.device) - (columns - self.length[:, None])
        inputs = {"attention_mask": (index >= 0).long(), "position_ids": index.clamp(min=0)}
        known = inspect.signature(self.model.forward).parameters
        inputs = {name: tensor for name, tensor in inputs.items() if name in known}
        return last_logits(self.model, {"inputs_embeds": self.embeds, **inputs}, rows, columns)

    @torch.no_grad()
    def step(self, ids: Tensor) -> Tensor:
        """ids [r] just chosen -> logits [r,v] of the next ones."""
        new = self.model.get_input_embeddings()(ids)[:, None].to(self.embeds.dtype)
        self.embeds, self.length = torch.cat((self.embeds, new), 1), self.length + 1
        return self.start()

    def select(self, rows: Tensor) -> None:
        """Keep the rows numbered `rows` [r] int64, repeats allowed."""
        self.length = self.length[rows]
        unused = self.embeds.shape[1] - int(self.length.max()) if len(rows) else 0
        self.embeds = self.embeds[rows, unused:]

    def join(self, other: Self) -> None:
        """Put the rows of another decoder of this model behind these."""
        longest = max(self.embeds.shape[1], other.embeds.shape[1])
        padded = (F.pad(x, (0, 0, longest - x.shape[1], 0)) for x in (self.embeds, other.embeds))
        self.embeds, self.length = torch.cat(list(padded)), torch.cat((self.length, other.length))


class Seq2SeqDecoder:
    """Continues answers of an encoder-decoder model: see `decoding.Decoder`.

    Rows are joined where the decoder's positions are relative, as T5's are. Learned ones, such as BART's, are the same
    for all rows of a pass.
    """

    def __init__(self, model: Any, embeds: Tensor, length: Tensor, start_id: int) -> None:
        """embeds [b,s,e] in the model's dtype, padded on the right to any width; length [b]; the decoder's first id."""
        self.model, self.prompt, self.start_id = model, length, start_id
        self.embeds: Tensor | None = embeds[:, : int(length.max())]
        self.joins = getattr(model.config, "relative_attention_num_buckets", None) is not None
        # transformers' default cache has as many blocks as the encoder, but T5's decoder may have more
        self.cache: Any = EncoderDecoderCache(Cache(layer_class_to_replicate=Layer), DynamicCache())
        self.columns = 0
        self.length = torch.zeros_like(length)  # [r] tokens of the decoder
        self.ragged = False  # whether rows have different numbers of them

    @torch.no_grad()
    def start(self) -> Tensor:
        """Logits [b,v] of the first new ids."""
        assert self.embeds is not None
        with torch.autocast(self.embeds.device.type, enabled=False):
            encoded = self.model.get_encoder()(inputs_embeds=self.embeds, attention_mask=self._prompt_mask(self.embeds))
        self.states, self.embeds = encoded[0], None
        return self.step(torch.full_like(self.prompt, self.start_id))

    @torch.no_grad()
    def step(self, ids: Tensor) -> Tensor:
        """ids [r] just chosen -> logits [r,v] of the next ones."""
        self.columns, self.length = self.columns + 1, self.length + 1
        inputs = {
            "encoder_outputs": BaseModelOutput(last_hidden_state=self.states),
            "attention_mask": self._prompt_mask(self.states),
            "decoder_input_ids": ids[:, None],
            "past_key_values": self.cache,
            "use_cache": True,
        }
        if self.ragged:
            index = torch.arange(self.columns, device=ids.device)
            inputs["decoder_attention_mask"] = (index >= self.columns - self.length[:, None]).long()
        return last_logits(self.model, inputs, len(ids), 1)

    def select(self, rows: Tensor) -> None:
        """Keep the rows numbered `rows` [r] int64, repeats allowed."""
        self.prompt, self.length = self.prompt[rows], self.length[rows]
        longest, unused = self.states.shape[1], 0
        if len(rows) and self.joins:
            longest, unused = int(self.prompt.max()), self.columns - int(self.length.max())
        self.states, self.columns = self.states[rows, :longest], self.columns - unused
        for layer in self.cache.self_attention_cache.layers:
            layer.select(rows, unused)
        for layer in self.cache.cross_attention_cache.layers:
            layer.keys, layer.values = layer.keys[rows, :, :longest], layer.values[rows, :, :longest]
        self._look()

    def join(self, other: Self) -> None:
        """Put the rows of another decoder of this model behind these."""
        assert self.joins
        own, more = self.cache, other.cache
        for layer, another in zip(own.self_attention_cache.layers, more.self_attention_cache.layers, strict=True):
            layer.join(another)
        for layer, another in zip(own.cross_attention_cache.layers, more.cross_attention_cache.layers, strict=True):
            layer.keys, layer.values = _stacked(layer.keys, another.keys), _stacked(layer.values, another.values)
        self.states = _stacked(self.states, other.states)
        self.columns = max(self.columns, other.columns)
        self.prompt, self.length = torch.cat((self.prompt, other.prompt)), torch.cat((self.length, other.length))
        self._look()

    def _look(self) -> None:
        self.ragged = bool((self.length < self.columns).any())

    def _prompt_mask(self, states: Tensor) -> Tensor:
        index = torch.arange(states.shape[1], device=states.device)
        return (index < self.prompt[:, None]).long()


def causal_decoder(model: Any, embeds: Tensor, length: Tensor) -> CausalDecoder | RereadDecoder:
    """With a cache where the model has one. Arguments as of CausalDecoder."""
    known = inspect.signature(model.forward).parameters
    return (CausalDecoder if any(name in known for name in CACHES) else RereadDecoder)(model, embeds, length)


def last_logits(model: Any, inputs: dict[str, Any], rows: int, columns: int) -> Tensor:
    """The logits [r,v] of a pass at its last column; autocast is off, since a frozen model runs in its own dtype."""
    last = torch.arange(1, rows + 1, device=model.device) * columns - 1
    with torch.autocast(model.device.type, enabled=False), head_on(model.get_output_embeddings(), last):
        logits: Tensor = model(**inputs).logits
    return logits[0]


def _stacked(first: Tensor, second: Tensor) -> Tensor:
    """[r,...,s,d] and [r',...,s',d] -> [r+r',...,max(s,s'),d], with zeros on the right."""
    longest = max(first.shape[-2], second.shape[-2])
    return torch.cat([F.pad(x, (0, 0, 0, longest - x.shape[-2])) for x in (first, second)])
