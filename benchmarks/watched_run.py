"""train.py, some of whose steps are recorded: `python -m benchmarks.watched_run FILE STEP STEPS CONFIG ...`.

After STEP steps, STEPS of them are recorded on each rank, and FILE-RANK gets, for one step in the mean: `step_ms`;
`collectives_ms`, in NCCL's kernels, which wait for the slowest card; `exposed_ms`, of it while nothing else ran;
`idle_ms`, while nothing ran at all; and `bytes` given to collectives. On a CPU only the bytes are counted.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vglm_train.files import write_json

Span = tuple[float, float]
COUNTED = ("all_reduce", "all_gather_into_tensor", "all_gather_single", "reduce_scatter_tensor", "all_to_all_single",
           "broadcast", "reduce", "all_gather", "_all_gather_base", "_reduce_scatter_base")  # fmt: skip


class Bytes:
    """Counts what this rank gives to torch's collectives."""

    def __init__(self) -> None:
        self.total = 0
        for name in COUNTED:
            if hasattr(dist, name):
                setattr(dist, name, self._counted(getattr(dist, name), name))

    def _counted(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        given = 1 if "gather" in name or "all_to_all" in name or "scatter" in name else 0

        names = list(signature(call).parameters)

        @wraps(call)
        def counted(*tensors: Any, **options: Any) -> Any:
            sent = tensors[given] if len(tensors) > given else options.get(names[given])  # DeepSpeed names them
            self.total += sent.nbytes if isinstance(sent, Tensor) else 0
            return call(*tensors, **options)

        return counted


def union(spans: Iterable[Span]) -> float:
    """Time that is covered by spans."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


class Watcher:
    """Stands in for the engine's step."""

    def __init__(self, path: Path, first: int, steps: int, sent: Bytes) -> None:
        self.path, self.first, self.steps, self.sent = path, first, steps, sent
        self.number = 0
        self.profiler: Any = None

    def wrap(self, step: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(step)
        def watched(*inputs: Any, **options: Any) -> Any:
            if self.number == self.first:
                self._begin()
            result = step(*inputs, **options)
            self.number += 1
            if self.number == self.first + self.steps:
                self._end()
            return result

        return watched

    def _begin(self) -> None:
        self.bytes = self.sent.total
        if torch.cuda.is_available():
            from torch.profiler import ProfilerActivity, profile

            self.profiler = profile(activities=[ProfilerActivity.CUDA])
            self.profiler.__enter__()
            torch.cuda.synchronize()
        self.begun = time.perf_counter()

    def _end(self) -> None:
        row = {"step_ms": 0.0, "collectives_ms": 0.0, "exposed_ms": 0.0, "idle_ms": 0.0}
        if self.profiler is not None:
            torch.cuda.synchronize()
            seconds = time.perf_counter() - self.begun
            self.profiler.__exit__(None, None, None)
            row = self._times(seconds)
        row["bytes"] = (self.sent.total - self.bytes) / self.steps
        path = self.path.with_name(f"{self.path.name}-{os.environ.get('RANK', '0')}")
        write_json(path, row)

    def _times(self, seconds: float) -> dict[str, float]:
        """Milliseconds of a step, of the recorded kernels."""
        kernels = [e for e in self.profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        spans = {True: [], False: []}  # type: dict[bool, list[Span]]
        for event in kernels:
            if not event.name.startswith("Optimizer."):  # a label, which covers kernels
                spans["nccl" in event.name.lower()].append((event.time_range.start, event.time_range.end))
        busy, other = union(spans[True] + spans[False]), union(spans[False])
        scale = 1e-3 / self.steps
        return {
            "step_ms": 1e3 * seconds / self.steps, "collectives_ms": union(spans[True]) * scale,
            "exposed_ms": (busy - other) * scale, "idle_ms": 1e3 * seconds / self.steps - busy * scale,
        }  # fmt: skip


def main(argv: Sequence[str]) -> int:
    path, first, steps, *arguments = argv
    sent = Bytes()  # before anything takes torch's functions
    from vglm_train.engine.deepspeed_engine import DeepSpeedEngine
    from vglm_train.train import main as train

    watcher = Watcher(Path(path), int(first), int(steps), sent)
    DeepSpeedEngine.step = watcher.wrap(DeepSpeedEngine.step)  # type: ignore[method-assign]
    return train(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
