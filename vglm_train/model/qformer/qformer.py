"""Q-Former (BLIP-2, arXiv:2301.12597): learned queries that read an image, and share self-attention with text.

n rows, q queries, t text tokens, p image tokens, c image width, d width.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vglm_train.autograd import apply
from vglm_train.config.model import QFormer as QFormerConfig
from vglm_train.model.norm import LayerNorm
from vglm_train.model.qformer import masks
from vglm_train.model.qformer.cuda_graphs import PassGraphs
from vglm_train.model.qformer.layers import EPS, Block, ImageKey, KeyValue

Keys = list[tuple[ImageKey, ...]]  # one entry a block: groups of images, or nothing where it has no cross-attention
Cache = list[KeyValue]  # one entry a block: the queries' self-attention keys and values
MASKS = {"separate": masks.separate, "full": masks.full, "causal": masks.causal}


class TextEmbeddings(nn.Module):
    def __init__(self, vocabulary: int, positions: int, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(positions, width)

    def forward(self, ids: Tensor) -> Tensor:
        """[n,t] -> [n,t,d]; positions start at 0, whatever precedes the text."""
        embedded: Tensor = self.words(ids) + self.positions.weight[: ids.shape[1]]
        return embedded


class QFormer(nn.Module):
    """Blocks shared by every pass; `vocabulary` None builds the query side alone (all that stage two needs).

    `writes` False: text is only read by the queries in `joint`, and the last block has no feed-forward for it.

    `recompute` trades time for memory: a block's activations are computed again in backward.
    """

    def __init__(self, config: QFormerConfig, image_width: int, vocabulary: int | None, writes: bool = True) -> None:
        super().__init__()
        width, text = config.width, vocabulary is not None
        self.dropout, self.spread, self.recompute = config.dropout, config.spread, False
        self.query_tokens = nn.Parameter(torch.empty(config.queries, width))
        self.embeddings = TextEmbeddings(vocabulary, config.positions, width) if vocabulary is not None else None
        self.norm = LayerNorm(width, EPS)
        blocks = nn.ModuleList(
            Block(
                config,
                image_width if number % config.cross_every == 0 else None,
                text and (writes or number < config.layers - 1),
            )
            for number in range(config.layers)
        )
        self.blocks: Sequence[Block] = blocks  # type: ignore[assignment]
        self.graphs: PassGraphs | None = None
        self.reset(config.spread)

    @torch.no_grad()
    def reset(self, spread: float) -> None:
        """BERT's initialisation: normal of deviation `spread`, zero biases."""
        nn.init.normal_(self.query_tokens, std=spread)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=spread)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def image_keys(self, image: Tensor, beside: bool = False) -> Keys:
        """Image tokens [n,p,c] -> what each block's cross-attention needs of them; one call serves every pass.

        `beside`: other images for passes that read those of the call before too, by the same weights.
        """
        if self.graphs is not None and not beside:
            self.graphs.start()
        return [() if block.cross is None else (block.cross.keys(image),) for block in self.blocks]

    def select(self, keys: Keys, rows: Tensor) -> Keys:
        """The keys of chosen images, rows [k] int64, repeats allowed."""
        return [
            () if block.cross is None else (ImageKey(apply(_Select, groups[0].packed, rows)),)
            for groups, block in zip(keys, self.blocks, strict=True)
        ]

    def queries(self, keys: Keys, keep: bool = True) -> tuple[Tensor, Cache]:
        """The queries read the images alone -> ([n,q,d], the cache that `caption` needs, empty unless `keep`)."""
        rows = next(len(groups[0].packed) for groups in keys if groups)
        hidden = self._query_states(rows)
        if keep:
            return self._run(hidden, hidden.shape[1], keys, None, keep=True)
        return self._states(hidden, hidden.shape[1], keys, None), []

    def text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Sentences alone: ids [n,t], mask [n,t] bool -> [n,t,d]."""
        hidden = self._text_states(ids)
        return self._run(hidden, 0, None, masks.separate(mask, 0))[0]

    def joint(
        self,
        keys: Keys,
        ids: Tensor,
        mask: Tensor,
        attend: Literal["separate", "full", "causal"] = "full",
        text: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Queries and text in one sequence -> ([n,q,d], [n,t,d]; [n,0,d] without `text` or if the Q-Former only reads).

        ids [n,t] and mask [n,t] bool: for each image of each group of `keys`, its `rows_each` sentences in order.
        """
        query = self._query_states(ids.shape[0])
        q = query.shape[1]
        hidden = torch.cat((query, self._text_states(ids)), 1)
        hidden = self._states(hidden, q, keys, MASKS[attend](mask, q), text)
        return hidden[:, :q], hidden[:, q:]

    def caption(self, cache: Cache, ids: Tensor, mask: Tensor) -> Tensor:
        """Causal text over the queries' cached keys and values: the joint causal pass's text rows -> [n,t,d]."""
        q = self.query_tokens.shape[0]
        rows = masks.causal(mask, q)[:, :, q:]  # [n,1,t,q+t]
        return self._run(self._text_states(ids), 0, None, rows, cache)[0]

    def contrast_and_caption(
        self, keys: Keys, ids: Tensor, caption_ids: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`queries`, `text` of ids [n,t] and `caption` of caption_ids [n,t] as one sequence: a third of the launches.

        Returns [n,q,d], [n,t,d], [n,t,d].
        """
        query = self._query_states(ids.shape[0])
        q, t = query.shape[1], ids.shape[1]
        hidden = torch.cat((query, self._text_states(ids), self._text_states(caption_ids)), 1)
        hidden = self._states(hidden, q, keys, masks.separate_and_causal(mask, q))
        parts: tuple[Tensor, Tensor, Tensor] = hidden.split((q, t, t), 1)
        return parts

    def _query_states(self, rows: int) -> Tensor:
        states = self.norm(self.query_tokens).expand(rows, -1, -1)
        return F.dropout(states, self.dropout, self.training)

    def _text_states(self, ids: Tensor) -> Tensor:
        assert self.embeddings is not None, "this Q-Former was built without its text side"
        return F.dropout(self.norm(self.embeddings(ids)), self.dropout, self.training)

    def _states(self, hidden: Tensor, queries: int, keys: Keys, mask: Tensor | None, text: bool = True) -> Tensor:
        """`_run` without a cache; in training as CUDA graphs, if `graphs` is set."""
        if self.graphs is not None and self.training and torch.is_grad_enabled():
            recorded = self.graphs(hidden, queries, keys, None if mask is None else _additive(mask, hidden), text)
            if recorded is not None:
                return recorded
        return self._run(hidden, queries, keys, mask, text=text)[0]

    def _run(
        self,
        hidden: Tensor,
        queries: int,
        keys: Keys | None,
        mask: Tensor | None,
        past: Cache | None = None,
        keep: bool = False,
        text: bool = True,
    ) -> tuple[Tensor, Cache]:
        """`keep`: fill the cache, which is empty otherwise. `text`: also what becomes of the text after queries."""
        bias = None if mask is None else _additive(mask, hidden)
        cache: Cache = []
        for number, block in enumerate(self.blocks):
            images, before = keys[number] if keys else (), past[number] if past else None
            inputs = (hidden, queries, images, bias, before, keep, text or number < len(self.blocks) - 1)
            if self.recompute and self.training:
                hidden, key_value = checkpoint(block, *inputs, use_reentrant=False)
            else:
                hidden, key_value = block(*inputs)
            if key_value is not None:
                cache.append(key_value)
        return hidden, cache


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """The mask as zeros and -inf in the dtype attention runs in, made once a pass rather than once a block."""
    device = like.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else like.dtype
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))


def grouped(keys: Keys, rows_each: int, *others: Keys) -> Keys:
    """Keys by which `rows_each` consecutive rows read each image of `keys`, then one row each image of the others."""
    return [
        tuple(group._replace(rows_each=rows_each) for group in groups) + tuple(chain.from_iterable(more))
        for groups, *more in zip(keys, *others)
    ]


class _Select(torch.autograd.Function):
    """index_select whose backward is one matrix product: deterministic, and faster than atomic additions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = x.shape
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (rows,) = ctx.saved_tensors
        index = torch.arange(ctx.shape[0], device=rows.device)
        chosen = (index[:, None] == rows).to(grad.dtype)  # [n,k]
        return (chosen @ grad.flatten(1)).view(ctx.shape), None
