"""The parts of one Q-Former block: post-norm BERT layers (arXiv:1810.04805) with shared self-attention.

n rows, s = q queries + t text tokens, p image tokens, d width. A KeyValue is (k, v), each [n,heads,s,d/heads].
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vglm_train.config.model import QFormer
from vglm_train.model.norm import LayerNorm
from vglm_train.model.qformer.attention import attend, scaled_dot_products, split_heads
from vglm_train.model.qformer.residual import add_and_norm

KeyValue = tuple[Tensor, Tensor]
EPS = 1e-12


class ImageKey(NamedTuple):
    """Keys and values of n images for one block. `rows_each` consecutive rows of the Q-Former read each image."""

    packed: Tensor  # keys and values [n,p,2d]
    rows_each: int = 1


class Attention(nn.Module):
    """What self- and cross-attention share: scaled dot products, output projection, residual, norm."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.output = nn.Linear(width, width)
        self.norm = LayerNorm(width, EPS)

    def attend(self, x: Tensor, image: Tensor | None, bias: Tensor | None) -> Tensor:
        """See `attention.attend`."""
        return attend(x, image, self.heads, bias, self.dropout if self.training else 0.0)

    def add(self, hidden: Tensor, x: Tensor) -> Tensor:
        """Output projection of the attention's result, residual and norm: [n,s,d] each -> [n,s,d]."""
        return add_and_norm(self.output, x, hidden, self.norm, self.dropout if self.training else 0.0)


class SelfAttention(Attention):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__(width, heads, dropout)
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, hidden: Tensor, bias: Tensor | None, past: KeyValue | None) -> tuple[Tensor, KeyValue]:
        """hidden [n,s,d]; `past` precedes it -> ([n,s,d], keys and values of `hidden` alone)."""
        x = self.qkv(hidden)
        q, k, v = split_heads(x, 3, self.heads)
        if past is None:
            attended = self.attend(x, None, bias)
        else:
            whole = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
            attended = scaled_dot_products(q, *whole, bias, self.dropout if self.training else 0.0)
        return self.add(hidden, attended), (k, v)


class CrossAttention(Attention):
    def __init__(self, width: int, image_width: int, heads: int, dropout: float) -> None:
        super().__init__(width, heads, dropout)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(image_width, 2 * width)

    def keys(self, image: Tensor) -> ImageKey:
        """Image tokens [n,p,c] -> what `forward` needs of them."""
        return ImageKey(self.key_value(image))

    def forward(self, hidden: Tensor, images: Sequence[ImageKey]) -> Tensor:
        """Queries [n,q,d] attend to the images of their rows, group by group -> [n,q,d]."""
        queries, width = hidden.shape[1:]
        groups = self.query(hidden).split([len(group.packed) * group.rows_each for group in images])
        outputs = []
        for rows, group in zip(groups, images):
            # the rows of one image are consecutive: as one longer row they read its keys once
            longer = rows.view(len(group.packed), -1, width)
            outputs.append(self.attend(longer, group.packed, None).view(-1, queries, width))
        return self.add(hidden, torch.cat(outputs) if len(outputs) > 1 else outputs[0])


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.norm = LayerNorm(width, EPS)

    def forward(self, x: Tensor) -> Tensor:
        return add_and_norm(self.down, F.gelu(self.up(x)), x, self.norm, self.dropout if self.training else 0.0)


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
        text: bool = True,
    ) -> tuple[Tensor, KeyValue | None]:
        """hidden [n,s,d], of which the first `queries` tokens are queries -> [n,s,d], and with `keep` keys and values.

        `text` False: nothing reads what becomes of the text, so that only the queries [n,q,d] are computed to the end.
        Unneeded outputs are not returned: compiled, they would get gradients of zeros.
        """
        hidden, key_value = self.attention(hidden, bias, past)
        kept = key_value if keep else None
        if queries == 0:
            assert self.text_mlp is not None
            return self.text_mlp(hidden), kept
        parts = hidden.split((queries, hidden.shape[1] - queries), 1)
        query, words = (part.contiguous() for part in parts)  # once, rather than in each operation below
        if self.cross is not None:
            query = self.cross(query, images)
        query = self.query_mlp(query)
        if words.shape[1] == 0 or self.text_mlp is None or not text:
            return query, kept
        return torch.cat((query, self.text_mlp(words)), 1), kept
