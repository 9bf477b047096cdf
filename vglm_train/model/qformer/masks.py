"""Attention masks for a sequence [queries | text]. True: the row may attend to the column.

The examples have two queries (q) and three text tokens (t), the last of which is padding (-).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def separate(text_mask: Tensor, queries: int) -> Tensor:
    """ITC: queries and text do not attend to each other. text_mask [b,t] bool -> [b,1,q+t,q+t] bool.

        q q | t t -
    q   1 1 | 0 0 0
    q   1 1 | 0 0 0
    t   0 0 | 1 1 0
    t   0 0 | 1 1 0
    -   0 0 | 1 1 0
    """
    is_text, columns = _layout(text_mask, queries)
    return columns & (is_text[:, None] == is_text)


def full(text_mask: Tensor, queries: int) -> Tensor:
    """ITM: everything attends to everything but padding. text_mask [b,t] bool -> [b,1,q+t,q+t] bool.

        q q | t t -
    q   1 1 | 1 1 0
    q   1 1 | 1 1 0
    t   1 1 | 1 1 0
    t   1 1 | 1 1 0
    -   1 1 | 1 1 0
    """
    is_text, columns = _layout(text_mask, queries)
    return columns.expand(-1, -1, is_text.shape[0], -1)


def causal(text_mask: Tensor, queries: int) -> Tensor:
    """ITG: text attends to the queries and the text before it, queries never to text. -> [b,1,q+t,q+t] bool.

        q q | t t -
    q   1 1 | 0 0 0
    q   1 1 | 0 0 0
    t   1 1 | 1 0 0
    t   1 1 | 1 1 0
    -   1 1 | 1 1 0
    """
    is_text, columns = _layout(text_mask, queries)
    index = torch.arange(is_text.shape[0], device=text_mask.device)
    return columns & (~is_text | (is_text[:, None] & (index <= index[:, None])))


def separate_and_causal(text_mask: Tensor, queries: int) -> Tensor:
    """ITC and ITG in one sequence [queries | text | the same text to be captioned] -> [b,1,q+2t,q+2t] bool.

    The first two parts are `separate`. The third has the rows of `causal`, and only it attends to itself.
    """
    t = text_mask.shape[1]
    contrast, caption = separate(text_mask, queries), causal(text_mask, queries)[:, :, queries:]
    on_queries, on_text = caption.split((queries, t), 3)
    caption = torch.cat((on_queries, torch.zeros_like(on_text), on_text), 3)
    return torch.cat((F.pad(contrast, (0, t)), caption), 2)


def _layout(text_mask: Tensor, queries: int) -> tuple[Tensor, Tensor]:
    """is_text [q+t] bool; columns [b,1,1,q+t] bool: what is not padding."""
    b, t = text_mask.shape
    is_text = torch.arange(queries + t, device=text_mask.device) >= queries
    columns = torch.cat((text_mask.new_ones(b, queries), text_mask), 1)
    return is_text, columns[:, None, None, :]
