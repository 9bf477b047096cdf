"""The learning rate, a pure function of samples consumed, so that batch size and resume cannot move it; and AdamW's
parameter groups."""

import math
from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn

from vglm_train.config.run import Optim


class Schedule(Protocol):
    """How long a run is, in samples; `engine.progress.Plan` is one."""

    @property
    def total_samples(self) -> int: ...
    @property
    def warmup_samples(self) -> int: ...
    @property
    def epoch_samples(self) -> int: ...


def learning_rate(samples: int, optim: Optim, span: Schedule) -> float:
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


def parameter_groups(
    module: nn.Module, optim: Optim, scales: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Groups for AdamW, decayed and not for each learning rate; in the module's own order, decayed ones first.

    scales: name -> factor of the learning rate, 1 for names that are not in it. Each group holds its factor as `scale`.

    matrices: decay weights of two or more axes, but neither the query tokens nor the temperature.
    lavis: decay everything but vectors and biases; its temperature was a scalar, so it is decayed, and so are
    the queries (LAVIS, lavis/models/blip2_models/blip2.py, get_optimizer_params).
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            key = (scales or {}).get(name, 1.0), _is_decayed(name, parameter, optim.decay_rule)
            groups.setdefault(key, []).append(parameter)
    order = sorted(groups, key=lambda key: not key[1])
    return [
        {"params": groups[scale, decayed], "weight_decay": optim.weight_decay if decayed else 0.0, "scale": scale}
        for scale, decayed in order
    ]


def _is_decayed(name: str, parameter: nn.Parameter, rule: str) -> bool:
    special = name.endswith(("query_tokens", "temperature"))
    if special:
        return rule == "lavis"
    return parameter.ndim > 1 and not name.endswith(".bias")
