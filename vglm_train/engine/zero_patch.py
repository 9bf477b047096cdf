"""Replaces methods of DeepSpeed 0.19.8's ZeRO optimizer, which works weight by weight and waits for the device.

https://github.com/deepspeedai/DeepSpeed/blob/v0.19.8/deepspeed/runtime/zero/stage_1_and_2.py
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class ZeroPatch:
    """What takes the place of methods of one DeepSpeedZeroOptimizer over a fused AdamW.

    get_grad_norm_direct: takes the norm of each gradient in fp64, then the norm of these norms. Here one launch takes
    the norms of all gradients; the rest stays DeepSpeed's.
    step: fetches the norm before it launches anything else, and again for each group, and passes over all gradients to
    clip them. Here AdamW gets the clipping as a divisor on the device, and a flag by which it changes nothing. The
    norm arrives while AdamW runs.
    _update_model_bit16_weights: points every weight at its slice of the group's flat buffer again after each update,
    one by one, in case the buffer was replaced. Here nothing replaces it: the weights point there already.
    reduce_ready_partitions_and_remove_grads: copies each gradient to a bucket, which is averaged and copied to another
    buffer. With one rank there is nothing to average.

    The copy of this rank's weights that AdamW would update gives way to the weights, which are in fp32 themselves.
    """

    def __init__(self, optimizer: Any, clip: float, rank: int, world: int) -> None:
        """clip: the norm above which gradients are clipped; 0: none."""
        self.optimizer, self.clip = optimizer, clip
        self._norm_of, self._global_norm = optimizer.get_grad_norm_direct, optimizer.scaled_global_norm
        self._step = optimizer.step
        self._norm = torch.zeros(())  # on the CPU, once `_arrived`
        self._arrived = torch.cuda.Event() if torch.device(optimizer.device).type == "cuda" else None
        optimizer.get_grad_norm_direct = self._norm_direct
        optimizer.scaled_global_norm = self._norm_for_adam
        optimizer.step = self._step_and_fetch
        optimizer.unscale_and_clip_grads = lambda gradients, norm: None
        optimizer._update_model_bit16_weights = lambda group: None
        if world == 1:
            optimizer.reduce_ready_partitions_and_remove_grads = lambda param, group: None
        for copy, parts in zip(
            optimizer.single_partition_of_fp32_groups, optimizer.parallel_partitioned_bit16_groups, strict=True
        ):
            copy.data = parts[rank].data
        optimizer._link_all_hp_params()  # by which the engine finds its state

    def _norm_direct(self, gradients: Sequence[Tensor], params: Sequence[Tensor], norm_type: float = 2) -> Tensor:
        norms = torch._foreach_norm(list(gradients), norm_type, dtype=torch.float64)
        norm: Tensor = self._norm_of([torch.stack(norms)], params[:1], norm_type)
        return norm

    def _norm_for_adam(self, norm_type: int = 2) -> float:
        norm, adam = self._global_norm(norm_type), self.optimizer.optimizer  # inf where a gradient is not finite
        adam.found_inf = norm.isinf().float()
        adam.grad_scale = ((norm + 1e-6) / self.clip).clamp(min=1.0) if self.clip else torch.ones_like(norm)
        self._norm = norm.to("cpu", non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()
        return 1.0  # finite for DeepSpeed

    def _step_and_fetch(self, closure: None = None) -> None:
        self._step(closure)
        if self._arrived is not None:
            self._arrived.synchronize()
        self.optimizer.overflow = not self._norm.isfinite()
        self.optimizer._global_grad_norm = self._norm
