"""Checkpoints, written while training goes on.

At a step all ranks gather what trains, and rank 0 copies it into memory of its own. All ranks go on with the next step,
while a thread of rank 0 writes the copy and makes it the latest checkpoint. Until then the one before is the latest.

A checkpoint is one file for any number of ranks, and the collectives that gather it end within the step. So only rank 0
has to know whether it is written. The thread calls no collective: the steps call theirs, and two threads must not.
"""

import logging
import mmap
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from typing import Any

import torch
from torch import Tensor

from vglm_train.checkpoint.resume import Checkpoints
from vglm_train.distributed import Ranks
from vglm_train.engine.deepspeed_engine import DeepSpeedEngine
from vglm_train.engine.hooks import Cadence
from vglm_train.engine.progress import RunState
from vglm_train.engine.trainer import StepReport
from vglm_train.log import console
from vglm_train.log.sinks import Sink

log = logging.getLogger(console.LOGGER)


class HostCopy:
    """Memory of this process for one copy of fp32 tensors, used again for every copy."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], device: torch.device) -> None:
        """`device`: the tensors'. A GPU writes fast, and beside other work, only into memory that is pinned for it."""
        sizes = [prod(shape) for shape in shapes.values()]
        self._device, self._pinned = device, False
        self._memory = torch.empty(sum(sizes)) if device.type != "cuda" else _not_inherited(sum(sizes))
        parts = zip(shapes.items(), self._memory.split(sizes), strict=True)
        self.tensors = {name: part.view(shape) for (name, shape), part in parts}

    def take(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Copy all of them. They may change, or be freed, after that."""
        for name, tensor in tensors:
            self.tensors[name].copy_(tensor, non_blocking=self._pinned)
        if self._pinned:
            torch.cuda.synchronize(self._device)

    def close(self) -> None:
        """Before the memory is freed."""
        if self._pinned:
            torch.cuda.cudart().cudaHostUnregister(self._memory.data_ptr())
            self._pinned = False

    def pin(self) -> "HostCopy":
        """Takes a second or two. Not by torch's own pinned tensors, whose sizes are rounded up to a power of two."""
        if self._device.type != "cuda":
            return self
        with torch.cuda.device(self._device):
            status = torch.cuda.cudart().cudaHostRegister(self._memory.data_ptr(), self._memory.nbytes, 0)
        self._pinned = status == torch.cuda.cudart().cudaError.success
        if not self._pinned:
            log.warning("no memory could be pinned for checkpoints (%s): each stops training for longer", status)
        return self


def _not_inherited(size: int) -> Tensor:
    """fp32 [size] that loader workers do not get: Linux copies pinned memory for every process that is forked."""
    memory = mmap.mmap(-1, 4 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_DONTFORK)
    return torch.frombuffer(memory, dtype=torch.float32)


class SaveHook:
    """Writes checkpoints when due and at each new best, then deletes those no longer wanted.

    What cannot be written ends the run after the step in which that is known. After the last step it waits for what is
    being written. `close` waits as well, however the run ends.
    """

    doing = "saving a checkpoint"

    def __init__(
        self,
        checkpoints: Checkpoints,
        engine: DeepSpeedEngine,
        state: RunState,
        cadence: Cadence,
        keep: int,
        sinks: Sequence[Sink],
        ranks: Ranks,
    ) -> None:
        self.checkpoints, self.engine, self.state, self.cadence = checkpoints, engine, state, cadence
        self.keep, self.sinks, self.ranks = keep, sinks, ranks
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._written: Future[None] | None = None  # of the newest checkpoint
        if ranks.main:  # the first steps need not wait for it
            self._copy = self._thread.submit(HostCopy(engine.state_shapes(), ranks.device).pin)

    def after_step(self, report: StepReport) -> None:
        if self._written is not None and self._written.done():
            self._wait()
        is_last = report.done or report.stopping or self.state.ended
        if is_last:
            self.save_now(report.step)
        elif self.cadence.saves(report) or self.state.best_step == report.step:
            self.save(report.step)

    def save(self, step: int) -> None:
        """All ranks take part. Rank 0 writes, and waits here only if it still writes the checkpoint before."""
        started = time.perf_counter()
        if self._written is not None and not self._written.done():
            log.info("step %d: training waits until the checkpoint before is written", step)
        self._wait()
        if not self.ranks.main:
            for _ in self.engine.state():
                pass
            return
        copy = self._copy.result()
        copy.take(self.engine.state())
        kept = [] if self.state.best_step is None else [self.state.best_step]
        stalled = time.perf_counter() - started
        self._written = self._thread.submit(self._write, step, copy.tensors, self.state.to_dict(), kept, stalled)

    def save_now(self, step: int) -> None:
        """As `save`, and wait until it is written."""
        self.save(step)
        self.finish()

    def finish(self) -> None:
        """Wait, on all ranks, until the newest checkpoint is written. UserError where it cannot be."""
        self._wait()
        self.ranks.barrier()

    def close(self) -> None:
        """Wait on this rank, whatever ends the run. An error that the run has not ended with is told."""
        try:
            self._wait()
        except Exception as error:
            log.error("%s", error)
        self._thread.shutdown()
        if self.ranks.main and self._copy.exception() is None:
            self._copy.result().close()

    def _wait(self) -> None:
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def _write(
        self, step: int, tensors: dict[str, Tensor], state: dict[str, Any], kept: Sequence[int], stalled: float
    ) -> None:
        """In the thread. `stalled`: seconds that training waited for the copy."""
        started = time.perf_counter()
        for sink in self.sinks:
            sink.checkpointed(step)
        self.checkpoints.write(step, tensors, state)
        self.checkpoints.prune(self.keep, also=kept)
        seconds = time.perf_counter() - started
        log.info("step %d: checkpoint written in %.1f s, for which training stopped %.2f s", step, seconds, stalled)
