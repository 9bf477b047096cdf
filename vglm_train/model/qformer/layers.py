"""The parts of one Q-Former block: post-norm BERT layers (arXiv:1810.04805) with shared self-attention.

n rows, s = q queries + t text tokens, p image tokens, d width. A KeyValue is (k, v), each [n,heads,s or p,d/heads].
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vglm_train.config.model import QFormer
from vglm_train.model.norm import LayerNorm

KeyValue = tuple[Tensor, Tensor]
EPS = 1e-12


class ImageKey(NamedTuple):
    """Keys and values of n images for one block. `rows_each` consecutive rows of the Q-Former read each image."""

    packed: Tensor  # [n,p,2d]
    key: Tensor  # [n,heads,p,d/heads], a view of `packed`
    value: Tensor
    rows_each: int = 1


class Attention(nn.Module):
    """What self- and cross-attention share: scaled dot products, output projection, residual, norm."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.output = nn.Linear(width, width)
        self.norm = LayerNorm(width, EPS)

    def attend(self, q: Tensor, key_value: KeyValue, bias: Tensor | None) -> Tensor:
        """q [n,heads,s,d/heads], bias broadcast to [n,heads,s,s'] -> [n,s,d]."""
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, *key_value, attn_mask=bias, dropout_p=dropout)
        return x.transpose(1, 2).flatten(2)

    def add(self, hidden: Tensor, x: Tensor) -> Tensor:
        """Output projection of the attention's result, residual and norm: [n,s,d] each -> [n,s,d]."""
        normed: Tensor = self.norm(F.dropout(self.output(x), self.dropout, self.training) + hidden)
        return normed

    def split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """[n,s,parts*d] -> `parts` of [n,heads,s,d/heads], without a copy."""
        n, s, width = x.shape
        each = x.view(n, s, parts, self.heads, width // parts // self.heads).unbind(2)
        # transposed only now: backward then stacks gradients in memory order, several times faster
        return tuple(part.transpose(1, 2) for part in each)


class SelfAttention(Attention):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__(width, heads, dropout)
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, hidden: Tensor, bias: Tensor | None, past: KeyValue | None) -> tuple[Tensor, KeyValue]:
        """hidden [n,s,d]; `past` precedes it -> ([n,s,d], keys and values of `hidden` alone)."""
        q, k, v = self.split(self.qkv(hidden), 3)
        whole = (k, v) if past is None else (torch.cat((past[0], k), 2), torch.cat((past[1], v), 2))
        return self.add(hidden, self.attend(q, whole, bias)), (k, v)


class CrossAttention(Attention):
    def __init__(self, width: int, image_width: int, heads: int, dropout: float) -> None:
        super().__init__(width, heads, dropout)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(image_width, 2 * width)

    def keys(self, image: Tensor) -> ImageKey:
        """Image tokens [n,p,c] -> what `forward` needs of them."""
        return self.unpack(self.key_value(image))

    def unpack(self, packed: Tensor) -> ImageKey:
        key, value = self.split(packed, 2)
        return ImageKey(packed, key, value)

    def forward(self, hidden: Tensor, images: Sequence[ImageKey]) -> Tensor:
        """Queries [n,q,d] attend to the images of their rows, group by group -> [n,q,d]."""
        queries, width = hidden.shape[1:]
        groups = self.query(hidden).split([group.key.shape[0] * group.rows_each for group in images])
        outputs = []
        for rows, group in zip(groups, images):
            # the rows of one image are consecutive: as one longer row they read its keys once
            (q,) = self.split(rows.view(group.key.shape[0], -1, width), 1)
            outputs.append(self.attend(q, (group.key, group.value), None).view(-1, queries, width))
        return self.add(hidden, torch.cat(outputs) if len(outputs) > 1 else outputs[0])


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.norm = LayerNorm(width, EPS)

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(F.gelu(self.up(x)))
        normed: Tensor = self.norm(F.dropout(y, self.dropout, self.training) + x)
        return normed


class Block(nn.Module):
    """Self-attention over [queries | text], cross-attention and a feed-forward for queries, another for text."""

    def __init__(self, config: QFormer, image_width: int | None, text: bool) -> None:
        super().__init__()
        width, heads, dropout = config.width, config.heads, config.dropout
        self.attention = SelfAttention(width, heads, dropout)
        self.cross = None if image_width is None else CrossAttention(width, image_width, heads, dropout)
        self.query_mlp = Mlp(width, config.mlp_width, dropout)
        self.text_mlp = Mlp(width, config.mlp_width, dropout) if text else None

    def forward(
        self,
        hidden: Tensor,
        queries: int,
        images: Sequence[ImageKey],
        bias: Tensor | None,
        past: KeyValue | None = None,
        keep: bool = False,
    ) -> tuple[Tensor, KeyValue | None]:
        """hidden [n,s,d], of which the first `queries` tokens are queries -> [n,s,d], and with `keep` keys and values.

        Unneeded outputs are not returned: compiled, they would get gradients of zeros.
        """
        hidden, key_value = self.attention(hidden, bias, past)
        kept = key_value if keep else None
        if queries == 0:
            assert self.text_mlp is not None
            return self.text_mlp(hidden), kept
        parts = hidden.split((queries, hidden.shape[1] - queries), 1)
        query, text = (part.contiguous() for part in parts)  # once, rather than in each operation below
        if self.cross is not None:
            query = self.cross(query, images)
        query = self.query_mlp(query)
        if text.shape[1] == 0 or self.text_mlp is None:  # None: nothing reads the text after the last block
            return query, kept
        return torch.cat((query, self.text_mlp(text)), 1), kept
