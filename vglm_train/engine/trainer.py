"""The training loop: a step, and the hooks after it."""

import contextlib
import functools
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from vglm_train.batch import CAUSES, Batch
from vglm_train.config.run import Config
from vglm_train.distributed import Ranks, without_waiting
from vglm_train.engine.deepspeed_engine import DeepSpeedEngine, Update
from vglm_train.engine.device_prefetch import DevicePrefetch
from vglm_train.engine.optim import learning_rate
from vglm_train.engine.progress import Plan, RunState
from vglm_train.engine.watch import Watch
from vglm_train.objective.base import LossOutput, Objective, seed_dropout


class Loader(Protocol):
    """An endless stream of this rank's micro-batches, from any whole step on. `Batch.sample_counts` has these names."""

    sources: tuple[str, ...]
    languages: tuple[str, ...]

    def batches(self, consumed: int) -> Generator[Batch]: ...


class StopRequest(Protocol):
    """Whether this process was asked to stop."""

    def requested(self) -> bool: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """What happened in one step, for the hooks. Tensors are still on the device and of this rank only."""

    step: int
    epoch: int
    outputs: Sequence[LossOutput]
    units: Sequence[Mapping[str, Tensor]]  # of each micro-batch: loss name -> count
    update: Update
    lr: float
    wait_seconds: float  # time this rank waited for data
    done: bool  # the plan ends here
    stopping: bool  # some rank was asked to stop: only a checkpoint follows
    keys: Sequence[str] = ()  # of this rank's samples, if the loader gives them
    started: float = 0.0  # of time.perf_counter, before the step waited for data


@dataclass(frozen=True, slots=True)
class _Counts:
    """What a step's losses are divided by, and what it brings the run's state up to date with."""

    units: Sequence[Mapping[str, Tensor]]  # of each micro-batch: loss name -> count
    scales: Sequence[Mapping[str, Tensor]]  # of each micro-batch: loss name -> factor of its sum
    arriving: Tensor  # `_global_counts` on the CPU, once the engine knows the norm of the gradients


class Hook(Protocol):
    @property
    def doing(self) -> str | None:
        """For a person who asks why a run stands still; None: it may take as long as it likes."""

    def after_step(self, report: StepReport) -> None: ...


class Trainer:
    """Runs steps from where `state` is to the plan's end. All ranks build the same one."""

    def __init__(
        self,
        config: Config,
        plan: Plan,
        state: RunState,
        engine: DeepSpeedEngine,
        objective: Objective,
        loader: Loader,
        stop: StopRequest,
        ranks: Ranks,
        watch: Watch,
    ) -> None:
        self.config, self.plan, self.state, self.ranks = config, plan, state, ranks
        self.engine, self.objective, self.loader, self.stop, self.watch = engine, objective, loader, stop, watch

    def fit(self, hooks: Sequence[Hook]) -> bool:
        """Train to the end of the plan, or of the step in which a hook ends the run or a rank is asked to stop.

        Returns whether a rank was asked to stop before the run's end.
        """
        self.objective.train()
        with contextlib.closing(self.loader.batches(self.state.stream_position)) as read:
            batches = DevicePrefetch(read, self.ranks.device)
            while self.state.step < self.plan.steps and not self.state.ended:
                report = self._train_step(batches)
                for hook in hooks:
                    self.watch.note(hook.doing, report.step)
                    hook.after_step(report)
                if report.stopping:
                    return self.state.step < self.plan.steps and not self.state.ended
        return False

    def _train_step(self, stream: DevicePrefetch) -> StepReport:
        start, number = time.perf_counter(), self.state.step + 1
        self.watch.note("waiting for data", number)
        batches = [next(stream) for _ in range(self.plan.split.accumulation)]
        waited = time.perf_counter() - start
        self.watch.note("computing", number)
        self.objective.prepare(batches)
        count = functools.cache(partial(self._count, batches, number))
        lr = learning_rate(self.state.samples, self.config.optim, self.plan)
        seed_dropout(self.config.run.seed, batches[0].first_row, self.ranks.device)
        ahead = partial(self._look_ahead, stream, number + 1)
        outputs, update = self.engine.step(batches, lambda: count().scales, lr, ahead)
        units = count().units
        stop = self._account(update, count().arriving, list(units[0]))
        return StepReport(
            step=self.state.step,
            epoch=batches[0].epoch,
            outputs=outputs,
            units=units,
            update=update,
            lr=lr,
            wait_seconds=waited + stream.idle_seconds(),
            done=self.state.step >= self.plan.steps,
            stopping=stop,
            keys=[key for batch in batches for key in batch.keys],
            started=start,
        )

    def _look_ahead(self, stream: DevicePrefetch, number: int) -> None:
        """Read the first batch of the step that follows, if it will be wanted, while the device computes."""
        if number <= self.plan.steps and not self.stop.requested():
            self.watch.note("waiting for data", number)
            stream.look_ahead()
            self.watch.note("computing", number - 1)

    def _count(self, batches: Sequence[Batch], number: int) -> "_Counts":
        self.watch.note("counting rows and targets", number)
        units = [self.objective.units(batch) for batch in batches]
        totals = self._global_counts(batches, units)
        counts = _Counts(units, self._scales(units, totals), totals.to("cpu", non_blocking=True))
        self.watch.note("computing", number)
        return counts

    def _global_counts(self, batches: Sequence[Batch], units: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Sums over all ranks, in the one all-reduce of a step: units of each loss, damaged samples by cause, samples
        by source and by language of the chosen caption, and ranks that were asked to stop."""
        damaged = [float(sum(batch.damaged.get(cause, 0) for batch in batches)) for cause in CAUSES]
        samples = [float(sum(batch.sample_counts.get(name, 0) for batch in batches)) for name in self._count_names()]
        host = torch.tensor([*damaged, *samples, float(self.stop.requested())], dtype=torch.float64)
        counts = [torch.stack([u[name] for u in units]).sum().double() for name in units[0]]
        device = without_waiting(host, self.ranks.device)
        return self.ranks.all_sum(torch.cat([torch.stack(counts), device]))

    def _count_names(self) -> list[str]:
        return [*self.loader.sources, *self.loader.languages]

    def _scales(self, units: Sequence[Mapping[str, Tensor]], totals: Tensor) -> list[dict[str, Tensor]]:
        """For each micro-batch, the factor of each loss's sum: its weight over its number of units.

        global: units of all ranks and micro-batches, times `world` because gradients are averaged over ranks.
        micro: the micro-batch's own units, each micro-batch with a row counting the same (LAVIS, VisualGLM).
        """
        weights = self.objective.weights
        if self.config.objective.mean == "global":
            counts = totals[: len(units[0])].clamp(min=1).float()
            shared = {name: weights[name] * self.ranks.world / count for name, count in zip(units[0], counts.unbind())}
            return [shared] * len(units)
        share = self.ranks.world / self.plan.split.used
        return [{name: weights[name] * share / n.clamp(min=1) for name, n in u.items()} for u in units]

    def _account(self, update: Update, totals: Tensor, losses: list[str]) -> bool:
        """Bring the state up to date; returns whether any rank was asked to stop."""
        *counts, stop = totals[len(losses) :].tolist()
        state = self.state
        state.step += 1
        state.samples += self.plan.global_batch
        for cause, count in zip(CAUSES, counts):
            if count:
                state.damaged[cause] = state.damaged.get(cause, 0) + int(count)
        for name, count in zip(self._count_names(), counts[len(CAUSES) :]):
            state.sample_counts[name] = state.sample_counts.get(name, 0) + int(count)
        state.skipped += not update.applied
        state.skipped_in_row = 0 if update.applied else state.skipped_in_row + 1
        asked: bool = stop > 0
        return asked
