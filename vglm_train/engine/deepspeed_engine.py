"""DeepSpeed behind three methods: step, state, load_state. The only user of deepspeed.

What trains is fp32, computed under bf16 autocast. DeepSpeed's own bf16 block is not used because it would
cast the frozen towers too. ZeRO 1 and 2 partition the optimizer. With engine.zero 3 what trains is under ZeRO 1, and
the frozen blocks are divided by `model/frozen_blocks.py`.
"""

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from vglm_train.batch import Batch
from vglm_train.config.run import Config
from vglm_train.distributed import Ranks, name_accelerator
from vglm_train.engine.optim import parameter_groups
from vglm_train.engine.zero_patch import ZeroPatch
from vglm_train.errors import needs_extra
from vglm_train.objective.base import LossOutput

MOMENTS = ("exp_avg", "exp_avg_sq")
BUCKET = 200_000_000  # elements reduced or gathered at once
PATCH_ZERO_OPTIMIZER = True  # see `ZeroPatch`; False: DeepSpeed as it is, slower and with the same results


@dataclass(frozen=True, slots=True)
class Update:
    """What an optimizer step did. `applied` is False, on all ranks alike, when a gradient was not finite."""

    applied: bool
    grad_norm: float  # of the mean gradient, before clipping


class DeepSpeedEngine:
    """One objective under DeepSpeed; every method is called by all ranks together."""

    def __init__(
        self,
        objective: nn.Module,
        config: Config,
        accumulation: int,
        ranks: Ranks,
        scales: Mapping[str, float] | None = None,
    ) -> None:
        """scales: names of the objective's parameters that do not train at the learning rate -> times it."""
        deepspeed = _import_deepspeed()
        optim = config.optim
        adamw = torch.optim.AdamW(
            parameter_groups(objective, optim, scales),
            lr=optim.lr,
            betas=optim.betas,
            eps=optim.eps,
            fused=True,
        )
        self.accumulation = accumulation
        self._device = ranks.device
        self._trained: dict[str, Any] = {
            n: p for n, p in objective.named_parameters() if p.requires_grad
        }  # DeepSpeed adds methods
        # DeepSpeed would make a second group of the same ranks: another communicator's memory, and a shorter patience
        deepspeed.utils.groups._WORLD_GROUP = ranks.group
        self._engine, *_ = deepspeed.initialize(
            model=_Autocast(objective, ranks.device.type, config.engine.precision == "bf16"),
            optimizer=adamw,
            config=_deepspeed_config(config, accumulation, ranks.world, sum(p.numel() for p in self._trained.values())),
            dist_init_required=False,
        )
        self._patch = ZeroPatch(self._engine.optimizer, optim.clip or 0.0, ranks) if PATCH_ZERO_OPTIMIZER else None
        self._adam = self._engine.optimizer.optimizer  # over this rank's flat partitions
        self._create_moments()

    def step(
        self,
        batches: Sequence[Batch],
        scales: Callable[[], Sequence[Mapping[str, Tensor]]],
        lr: float,
        meanwhile: Callable[[], None] | None = None,
    ) -> tuple[list[LossOutput], Update]:
        """Forward and backward of each micro-batch, then one clipped AdamW update at `lr`, times each group's `scale`.

        scales: gives for each micro-batch what each loss's sum is multiplied by before backward (weight included).
        Called once, when the first forward is launched: the device computes while they are counted.
        Gradients are averaged over ranks. A gradient norm that is not finite leaves weights and moments alone.
        meanwhile: called once, when all is launched and the device computes.
        """
        assert len(batches) == self.accumulation
        if self._patch is not None:
            self._patch.meanwhile = meanwhile
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        outputs: list[LossOutput] = []
        factors: Sequence[Mapping[str, Tensor]] = ()
        for number, batch in enumerate(batches):
            output = self._engine(batch)
            factors = factors or scales()
            scale = factors[number]
            total = torch.stack([value * scale[name] for name, value in output.sums.items()]).sum()
            self._engine.backward(total, scale_wrt_gas=False)
            self._engine.step()  # updates at the last micro-batch only
            sums = {name: value.detach() for name, value in output.sums.items()}
            outputs.append(replace(output, sums=sums))
        if self._patch is None and meanwhile is not None:
            meanwhile()
        applied = self._engine.was_step_applied()
        norm = float(self._engine.get_global_grad_norm()) if applied else math.inf
        return outputs, Update(applied, norm)

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Everything that trains and its Adam moments as full fp32 tensors on the device, one name at a time.

        Names are `weight/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`, and `adam_step` [1], the updates made so far.
        The same for any number of ranks, which all must walk the iterator to its end.
        """
        for name, parameter in self._trained.items():
            yield f"weight/{name}", parameter.get_full_hp_param()
            for moment in MOMENTS:
                yield f"{moment}/{name}", parameter.get_full_hp_param(moment)
        yield "adam_step", next(iter(self._adam.state.values()))["step"].reshape(1)

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what `state` yields, in its order."""
        trained = self.trained_shapes().items()
        shapes = {f"{kind}/{name}": shape for name, shape in trained for kind in ("weight", *MOMENTS)}
        return {**shapes, "adam_step": (1,)}

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what `state` yielded, at any world size. The caller has checked the names."""
        for name, parameter in self._trained.items():
            value = tensors[f"weight/{name}"].to(self._device)
            parameter.copy_(value)
            parameter.set_full_hp_param(value)
            for moment in MOMENTS:
                parameter.set_full_hp_param(tensors[f"{moment}/{name}"].to(self._device), moment)
        for state in self._adam.state.values():
            state["step"].copy_(tensors["adam_step"][0])

    def trained_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of what trains, by name, in order."""
        return {name: tuple(parameter.shape) for name, parameter in self._trained.items()}

    def _create_moments(self) -> None:
        """Create now what AdamW would create in its first update.

        A resumed run needs them before that. Left to the first update, DeepSpeed 0.19.8 links only the moments of
        the first parameter group.
        """
        for group in self._adam.param_groups:
            for flat in group["params"]:
                self._adam.state[flat] = {
                    "step": torch.zeros((), dtype=torch.float32, device=flat.device),
                    **{moment: torch.zeros_like(flat) for moment in MOMENTS},
                }
        self._engine.optimizer._lazy_init_hp_params_optimizer_state()


class _Autocast(nn.Module):
    """DeepSpeed switches off an autocast that was entered outside of its engine, so it is entered inside."""

    def __init__(self, objective: nn.Module, device_type: str, enabled: bool) -> None:
        super().__init__()
        self.objective, self.device_type, self.enabled = objective, device_type, enabled

    def forward(self, batch: Batch) -> LossOutput:
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.enabled):
            output: LossOutput = self.objective(batch)
            return output


def _deepspeed_config(config: Config, accumulation: int, world: int, trained: int) -> dict[str, Any]:
    return {
        # it only multiplies them: shares may be uneven, and losses come with their scales
        "train_batch_size": world * accumulation,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.optim.clip or 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": 2 if config.engine.zero == 2 else 1,
            "contiguous_gradients": True,
            "parameter_alignment": True,  # an odd-sized parameter would leave all that follow it misaligned
            # with it, backward ends by waiting for the device, and all launches that follow (norms, flattening) are
            # waited for in turn; there is one bucket, which is full only when backward ends anyway
            "overlap_comm": False,
            # a buffer: adapters need none of most of a gigabyte, and one rank none at all
            "reduce_bucket_size": 1 if world == 1 and PATCH_ZERO_OPTIMIZER else max(1, min(BUCKET, trained)),
            "allgather_bucket_size": BUCKET,
        },
        "steps_per_print": None,
        # it waits for the device before each forward and after each step, for a speed that nobody reads
        "timers": {"throughput": {"enabled": False}},
    }


@contextmanager
def _nothing_compiled() -> Iterator[None]:
    """For DeepSpeed's Muon, which every run imports and no run here uses. It decorates functions with torch.compile,
    and with torch 2.13 that imports torch's compiler, which takes a second."""
    plain = torch.compile
    torch.compile = lambda function: function  # type: ignore
    try:
        yield
    finally:
        torch.compile = plain


def _import_deepspeed() -> ModuleType:
    """Import quietly, and on a CPU without the shared-memory collectives, which take 45 s to compile."""
    name_accelerator()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    with needs_extra("train", "training"):
        import deepspeed

        with _nothing_compiled():
            import deepspeed.runtime.zero.muon.muon_optimizer

    deepspeed.utils.logger.setLevel(logging.ERROR)
    # torch 2.13 gave it another name, and says so at each call: a line or two a step
    warnings.filterwarnings("ignore", "`torch.distributed.all_gather_into_tensor` is deprecated", FutureWarning)
    if os.environ["DS_ACCELERATOR"] == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    module: ModuleType = deepspeed
    return module
