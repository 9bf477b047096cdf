"""Image-text contrastive loss (ITC, BLIP-2): the similarity of an image and a text is that of the image's best query.

b rows of this rank, B rows of all ranks, q queries, e width of the embeddings.
"""

import torch
from torch import Tensor

MASKED = torch.finfo(torch.float32).min / 2  # a logit that takes no part; finite, so that an empty row stays finite


def similarities(image: Tensor, text: Tensor, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines, maximum over queries. image [b,q,e], text [b,e], images [B,q,e], texts [B,e].

    Returns (own images to all texts [b,B], own texts to all images [b,B]), before the temperature.
    """
    image_to_text = torch.einsum("bqe,ne->bqn", image, texts).amax(1)
    text_to_image = torch.einsum("be,nqe->bnq", text, images).amax(2)
    return image_to_text, text_to_image


def soft_targets(positives: Tensor, columns: Tensor, smoothing: float) -> Tensor:
    """positives [b,B] bool (valid ones), columns [B] bool -> targets [b,B]: positives share 1 - smoothing.

    With one positive a row this is F.cross_entropy's label smoothing over the valid columns.
    """
    share = positives.float() / positives.sum(1, keepdim=True).clamp(min=1)
    return (1 - smoothing) * share + smoothing * columns.float() / columns.sum().clamp(min=1)


def contrastive_loss(logits: Tensor, positives: Tensor, columns: Tensor, rows: Tensor, smoothing: float) -> Tensor:
    """Sum over valid rows of the cross entropy with soft targets.

    logits [b,B] (similarities over temperature), positives [b,B] bool, columns [B] and rows [b] bool: valid ones.
    """
    log_probability = logits.masked_fill(~columns, MASKED).log_softmax(1).masked_fill(~columns, 0.0)
    losses = -(soft_targets(positives & columns, columns, smoothing) * log_probability).sum(1)  # [b]
    return (losses * rows).sum()


def count_correct(logits: Tensor, positives: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """How many valid rows have a positive as their best valid column."""
    best = logits.masked_fill(~columns, MASKED).argmax(1, keepdim=True)
    return (positives.gather(1, best)[:, 0] & rows).sum().float()
