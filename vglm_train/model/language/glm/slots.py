"""Fast decoding of ChatGLM: a step over memory that stays where it is, recorded as one CUDA graph.

One conversation needs 12 GB of weights a token. A GPU reads them in a few milliseconds, but launching the 500 kernels
of a step through SAT's modules takes ten times as long. So the step is written out here over the same modules, what is
not a matrix product is compiled into one kernel at a time, and the whole is recorded once and replayed.

n slots, r rows in use, h heads, t columns, d width of a head, e embedding width, v vocabulary.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vglm_train.log import console
from vglm_train.model.recorder import CAPTURE_MODE, CAPTURES

log = logging.getLogger(console.LOGGER)
WARM_UP = 2  # steps before one is recorded: libraries make their workspaces, kernels are compiled


class Glm(Protocol):
    """What is needed of a ChatGlm."""

    network: Any
    dtype: torch.dtype
    heads: int
    embed_width: int
    prefix: int

    @property
    def slots(self) -> "SlotPool": ...

    def blocks(self) -> Sequence[nn.Module]: ...

    def adapters(self) -> Iterator[nn.Module]: ...

    def state_dict(self) -> dict[str, Any]: ...


class Slots:
    """Memory for `size` rows of `columns` tokens, and the step over all of them.

    Every row's newest token is in column `column - 1`, as in `cache.KeyValues`. A slot that holds no row computes along
    and sees itself alone.
    """

    def __init__(self, model: Glm, size: int, columns: int) -> None:
        self.model, self.size, self.columns = model, size, columns
        weight = model.network.transformer.word_embeddings.weight
        shape = (size, model.heads, columns, model.embed_width // model.heads)
        self.keys, self.values = (
            [torch.zeros(shape, dtype=model.dtype, device=weight.device) for _ in model.blocks()] for _ in range(2)
        )
        counts = torch.zeros(4, size, dtype=torch.int64, device=weight.device)
        self.ids, self.length, self.context, self.active = counts.unbind(0)
        self.column = torch.zeros(1, dtype=torch.int64, device=weight.device)  # of the next token
        self.logits: Tensor | None = None  # [n,v]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._index = torch.arange(columns, device=weight.device)

    def fill(self, slot: int, keys: Sequence[Tensor], values: Sequence[Tensor], context: int, column: int) -> None:
        """Put a row of [h,s,d] keys and values a block into a slot, so that it ends before `column`."""
        length = keys[0].shape[1]
        for memory, parts in ((self.keys, keys), (self.values, values)):
            for block, part in zip(memory, parts, strict=True):
                block[slot, :, column - length : column] = part
        self.length[slot], self.context[slot], self.active[slot] = length, context, 1

    def free(self, slots: Sequence[int]) -> None:
        """Let rows go."""
        self.length[slots] = self.active[slots] = 0

    def step(self, ids: Tensor, slots: Tensor) -> Tensor:
        """ids [r] just chosen, of the rows in `slots` [r] -> logits [r,v] of the next ones."""
        self.ids[slots] = ids
        if not self.column.is_cuda:
            self.logits = self._step()
        elif self._graph is None:
            self._record()
        if self._graph is not None:
            self._graph.replay()
        assert self.logits is not None
        return self.logits[slots]

    def _record(self) -> None:
        """Record the step, which changes nothing yet: what the steps before it have counted is set back."""
        counted = self.length.clone(), self.column.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._step()
                self._set_back(counted)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with CAPTURES, torch.cuda.graph(self._graph, capture_error_mode=CAPTURE_MODE):
            self.logits = self._step()
        self._set_back(counted)

    def _set_back(self, counted: tuple[Tensor, Tensor]) -> None:
        self.length.copy_(counted[0])
        self.column.copy_(counted[1])

    @torch.no_grad()
    def _step(self) -> Tensor:
        """Logits [n,v] of the next ids. Nothing here waits for the device or depends on values."""
        network, layers = self.model.network, self.model.network.transformer.layers
        width, alpha = self.model.embed_width, (2 * len(layers)) ** 0.5
        positions = torch.stack(glm_positions(self.length, self.context), 1)[..., None]
        rotation = [part[:, 0] for part in network.get_mixin("chatglm-attn").rotary_emb(positions)]  # [n,1,2,d/4] each
        self.length += self.active
        seen = self._index > self.column - self.length.clamp(min=1)[:, None]
        bias = torch.zeros(seen.shape, dtype=self.model.dtype, device=seen.device)
        bias = bias.masked_fill_(~(seen & (self._index <= self.column)), float("-inf"))[:, None, None]
        fused = fused_parts(self.column.is_cuda)
        x = network.transformer.word_embeddings(self.ids).to(self.model.dtype)  # [n,e]
        x = layers[0].input_layernorm(x)
        norms = [*(layer.input_layernorm for layer in layers[1:]), network.transformer.final_layernorm]  # after a block
        for number, layer in enumerate(layers):
            attention, mlp = layer.attention, layer.mlp
            query = fused.rotate_and_keep(
                attention.query_key_value(x).view(self.size, 3, self.model.heads, -1),
                *(*rotation, self.column, self.keys[number], self.values[number]),
            )
            read = F.scaled_dot_product_attention(query, self.keys[number], self.values[number], attn_mask=bias)
            read = attention.dense(read.reshape(self.size, width))
            x = fused.add_and_norm(x, read, alpha, layer.post_attention_layernorm)
            x = fused.add_and_norm(x, mlp.dense_4h_to_h(fused.gelu(mlp.dense_h_to_4h(x))), alpha, norms[number])
        self.column += 1
        logits: Tensor = network.get_mixin("chatglm-final").lm_head(x)
        return logits


class SlotPool:
    """Slots that no decoder uses, for the next one: recording a step takes longer than many steps do."""

    KEPT = 2

    def __init__(self, model: Glm) -> None:
        self.model = model
        self._free: list[Slots] = []
        self._state: tuple[Any, ...] | None = None

    def take(self, size: int, columns: int) -> Slots:
        """Free ones of that size, or new ones."""
        self._forget_stale()
        found = next((slots for slots in self._free if (slots.size, slots.columns) == (size, columns)), None)
        if found is None:
            return Slots(self.model, size, columns)
        self._free.remove(found)
        found.free(list(range(size)))
        return found

    def give_back(self, slots: Slots) -> None:
        self._free = [*self._free, slots][-self.KEPT :]

    def _forget_stale(self) -> None:
        """A recorded step knows where weights are and how adapters are scaled: what changed since is recorded anew."""
        numbers = [(name, value) for part in self.model.adapters() for name, value in vars(part).items()
                   if isinstance(value, int | float)]  # fmt: skip
        state = (*(tensor.data_ptr() for tensor in self.model.state_dict().values()), *numbers)
        if state != self._state:
            self._free, self._state = [], state


class FusedParts:
    """What a step does between its matrix products, each as one function."""

    def __init__(self, compiled: bool) -> None:
        wrap: Callable[..., Any] = torch.compile if compiled else lambda function, **_: function
        self.rotate_and_keep = wrap(rotate_and_keep, dynamic=True)
        self._norm, self.gelu = wrap(add_and_norm, dynamic=True), wrap(gelu, dynamic=True)

    def add_and_norm(self, x: Tensor, added: Tensor, alpha: float, norm: nn.LayerNorm) -> Tensor:
        """[n,e] twice -> LayerNorm of alpha x + added."""
        normed: Tensor = self._norm(x, added, alpha, norm.weight, norm.bias, norm.eps)
        return normed


def glm_positions(index: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """Index in the sequence -> GLM's two positions.

    The first counts through the context and stays at its last token; the second counts from <sop> on.
    """
    return index.minimum((context - 1).clamp(min=0)), (index - context + 1).clamp(min=0)


@cache
def fused_parts(cuda: bool) -> FusedParts:
    """Compiled on a GPU with triton."""
    compiled = cuda and find_spec("triton") is not None
    if cuda and not compiled:
        log.warning("ChatGLM answers a quarter slower without triton")
    return FusedParts(compiled)


def rotate_and_keep(qkv: Tensor, cos: Tensor, sin: Tensor, column: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Rotate queries and keys of qkv [n,3,h,d] by [n,1,2,d/4]; write keys and values to `column` [1] of [n,h,t,d].

    -> queries [n,h,1,d]
    """
    first, second = qkv[:, :2].unflatten(-1, (2, 2, -1)).unbind(-2)  # [n,2,h,2,d/4] each
    cos, sin = cos[:, None], sin[:, None]
    rotated = torch.stack((first * cos - second * sin, second * cos + first * sin), -2).flatten(-3).to(qkv.dtype)
    keys.index_copy_(2, column, rotated[:, 1, :, None])
    values.index_copy_(2, column, qkv[:, 2, :, None])
    return rotated[:, 0, :, None]


def add_and_norm(x: Tensor, added: Tensor, alpha: float, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """See `FusedParts.add_and_norm`."""
    return F.layer_norm(x * alpha + added, x.shape[-1:], weight, bias, eps)


def gelu(x: Tensor) -> Tensor:
    """SAT's activation of ChatGLM."""
    return F.gelu(x, approximate="tanh")
