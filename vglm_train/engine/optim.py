"""Learning rate as a pure function of samples consumed, so that batch size and resume cannot move it."""

import math
from typing import Protocol

from vglm_train.config.run import Optim


class Span(Protocol):
    """How long a run is, in samples; engine.plan.Plan is one."""

    @property
    def total_samples(self) -> int: ...
    @property
    def warmup_samples(self) -> int: ...
    @property
    def epoch_samples(self) -> int: ...


def learning_rate(samples: int, optim: Optim, span: Span) -> float:
    """Rate of the step that starts when `samples` have been consumed.

    Linear from `warmup_lr` at 0 to `lr` at `warmup_samples`, then by `optim.decay`:
    cosine: half a cosine, `min_lr` at `total_samples`; constant: `lr`;
    cosine_per_epoch: LAVIS's linear_warmup_cosine_lr (lavis/common/optims.py): epoch 0 warms up and then keeps
    `lr`; from epoch 1 on half a cosine evaluated at the epoch's number. A warm-up longer than epoch 0 is cut there.
    """
    epoch = samples // span.epoch_samples
    if optim.decay == "cosine_per_epoch" and epoch > 0:
        return _cosine(optim, epoch * span.epoch_samples / span.total_samples)
    if samples < span.warmup_samples:
        return optim.warmup_lr + (optim.lr - optim.warmup_lr) * samples / span.warmup_samples
    if optim.decay == "cosine":
        return _cosine(optim, (samples - span.warmup_samples) / max(1, span.total_samples - span.warmup_samples))
    return optim.lr


def _cosine(optim: Optim, progress: float) -> float:
    """`lr` at progress 0, `min_lr` from 1 on."""
    return optim.min_lr + (optim.lr - optim.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
