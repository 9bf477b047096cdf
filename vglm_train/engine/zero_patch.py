"""Replaces methods of DeepSpeed 0.19.8's ZeRO optimizer, which works weight by weight and waits for the device.

https://github.com/deepspeedai/DeepSpeed/blob/v0.19.8/deepspeed/runtime/zero/stage_1_and_2.py
"""

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch

from vglm_train.distributed import Ranks


class ZeroPatch:
    """What takes the place of methods of one DeepSpeedZeroOptimizer over a fused AdamW.

    scaled_global_norm: takes the norm of each gradient in fp64, sums over the ranks once for each group of parameters,
    and waits for the device in each. Here one launch takes the norms of all gradients, and there is one sum.
    step: fetches the norm before it launches anything else, and passes over all gradients to clip them. Here AdamW gets
    the clipping as a divisor on the device, and a flag by which it changes nothing. The norm arrives while AdamW runs.
    _update_model_bit16_weights: points every weight at its slice of the group's flat buffer again after each update,
    one by one, in case the buffer was replaced. Here nothing replaces it: the weights point there already.
    reduce_ready_partitions_and_remove_grads: copies each gradient to a bucket, which is averaged and copied to another
    buffer. With one rank there is nothing to average.

    The copy of this rank's weights that AdamW would update gives way to the weights, which are in fp32 themselves.
    """

    def __init__(self, optimizer: Any, clip: float, ranks: Ranks) -> None:
        """clip: the norm above which gradients are clipped; 0: none."""
        self.optimizer, self.clip, self.ranks = optimizer, clip, ranks
        self._step = optimizer.step
        self._norm = torch.zeros(())  # on the CPU, once `_arrived`
        self._arrived = torch.cuda.Event() if torch.device(optimizer.device).type == "cuda" else None
        self.meanwhile: Callable[[], None] | None = None  # see `DeepSpeedEngine.step`
        optimizer.scaled_global_norm = self._norm_for_adam
        optimizer.step = self._step_and_fetch
        optimizer.unscale_and_clip_grads = lambda gradients, norm: None
        optimizer._update_model_bit16_weights = lambda group: None
        if ranks.world == 1:
            optimizer.reduce_ready_partitions_and_remove_grads = lambda param, group: None
        for copy, parts in zip(
            optimizer.single_partition_of_fp32_groups, optimizer.parallel_partitioned_bit16_groups, strict=True
        ):
            copy.data = parts[ranks.rank].data
        optimizer._link_all_hp_params()  # by which the engine finds its state

    def _norm_for_adam(self, norm_type: int = 2) -> float:
        adam = self.optimizer.optimizer
        gradients = [
            gradient
            for gradient in chain.from_iterable(self.optimizer.averaged_gradients.values())
            if not getattr(gradient, "_zero_padding", False)
        ]
        norms = torch._foreach_norm(gradients, norm_type, dtype=torch.float64) if gradients else []
        zero = torch.zeros((), dtype=torch.float64, device=self.ranks.device)  # a rank can be left without a gradient
        norm = self.ranks.all_sum(torch.stack([zero, *norms]).square().sum()).sqrt().float()
        adam.found_inf = (~norm.isfinite()).float()
        adam.grad_scale = ((norm + 1e-6) / self.clip).clamp(min=1.0) if self.clip else torch.ones_like(norm)
        self._norm = norm.to("cpu", non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()
        return 1.0  # finite for DeepSpeed

    def _step_and_fetch(self, closure: None = None) -> None:
        self._step(closure)
        if self.meanwhile is not None:
            self.meanwhile()
        if self._arrived is not None:
            self._arrived.synchronize()
        self.optimizer.overflow = not self._norm.isfinite()
        self.optimizer._global_grad_norm = self._norm
