"""Image-grounded text generation (ITG, BLIP-2): predict the next word from the queries and the words before.

b rows, t text tokens, v vocabulary.
"""

from collections.abc import Collection

import torch.nn.functional as F
from torch import Tensor

from vglm_train.objective.cross_entropy import fused_losses, fuses


def caption_inputs(ids: Tensor, dec_id: int) -> Tensor:
    """ids [b,t] with [DEC] in place of the [CLS] in front."""
    ids = ids.clone()
    ids[:, 0] = dec_id
    return ids


def target_mask(ids: Tensor, mask: Tensor, rows: Tensor, never: Collection[int]) -> Tensor:
    """Which of ids[:, 1:] are targets [b,t-1] bool: tokens of valid rows that are not language tokens.

    ids [b,t], mask [b,t] bool, rows [b] bool; `never`: ids that are never predicted.
    """
    targets = ids[:, 1:]
    chosen = mask[:, 1:] & rows[:, None]
    for token in never:
        chosen = chosen & (targets != token)
    return chosen


def captioning_loss(logits: Tensor, ids: Tensor, chosen: Tensor, smoothing: float) -> Tensor:
    """Sum of the smoothed cross entropy over chosen targets. logits [b,t,v], ids [b,t], chosen [b,t-1] bool -> []."""
    targets = ids[:, 1:].masked_fill(~chosen, -100)
    if fuses(logits):
        every = F.pad(targets, (0, 1), value=-100)  # the last token predicts nothing
        return fused_losses(logits.flatten(0, 1), every.flatten(), smoothing).sum()
    words = logits[:, :-1].float().flatten(0, 1)  # float first: one copy instead of two
    return F.cross_entropy(words, targets.flatten(), label_smoothing=smoothing, reduction="sum")
