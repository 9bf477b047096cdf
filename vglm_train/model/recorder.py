"""What runs without gradient as CUDA graphs, for small batches, whose kernels the device runs faster than the host
launches them.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vglm_train.log import console

MOST = 4  # shapes that are recorded: each keeps buffers for what goes in and comes out
AFTER = 2  # a shape is recorded when it occurs this often: a last batch of odd size is not worth it
CAPTURE_MODE = "thread_local"  # other threads, such as the one that pins batches, may use the device meanwhile
Run = Callable[..., Tensor]
Layout = tuple[object, ...]
CAPTURES = threading.RLock()  # CUDA records one graph at a time in a process
log = logging.getLogger(console.LOGGER)


class Recorder:
    """Calls functions of tensors, and replays those whose shapes have occurred before.

    A recorded function gives the same numbers, draws no random ones and waits for nothing. It reads weights in place:
    where they have moved, or frozen ones have changed, it is recorded again. All of its shapes share one pool of memory
    for what lies between input and output, so they must run on one stream; on another one nothing is recorded.
    """

    def __init__(self, on: bool = True) -> None:
        self.on = on
        self._lock = threading.Lock()
        self._seen: Counter[Layout] = Counter()
        self._recorded: dict[Layout, Recording] = {}
        self._weights: tuple[int, ...] = ()
        self._where: _Where | None = None

    def __reduce__(self) -> Any:
        return Recorder, (self.on,)  # a copy of a model has weights of its own

    def __len__(self) -> int:
        """Number of recorded shapes."""
        return len(self._recorded)

    def __call__(self, run: Run, owners: Sequence[nn.Module], *inputs: Tensor) -> Tensor:
        """`run(*inputs)`, a function of the weights of `owners`. One recorder has one function."""
        if not self.on or not records(inputs) or (weights := addresses(owners)) is None:
            return run(*inputs)
        with self._lock:
            if weights != self._weights:
                self._weights = weights
                self._forget()
            layout = _layout(inputs)
            if (recording := self._recorded.get(layout)) is not None:
                return recording(inputs) if recording.where.is_here() else run(*inputs)
            self._seen[layout] += 1
            if self._seen[layout] >= AFTER and len(self._recorded) < MOST:
                self._where = self._where or _Where(inputs[0].device)
                if self._where.is_here():
                    return self._record(layout, run, inputs, self._where)
        return run(*inputs)

    def _record(self, layout: Layout, run: Run, inputs: Sequence[Tensor], where: "_Where") -> Tensor:
        """What `run` gives, recorded or not."""
        kind = inputs[0].device.type
        mixed, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        # a copy of a weight from autocast's cache would be read for ever
        with torch.no_grad(), torch.autocast(kind, dtype, enabled=mixed, cache_enabled=False):
            output = run(*inputs)  # here libraries choose their kernels, once for each thread
            try:
                self._recorded[layout] = Recording(run, inputs, where)
            except torch.OutOfMemoryError:
                log.info("the card is too full to record passes as CUDA graphs: they run without")
                self.on = False
                self._forget()
        return output

    def _forget(self) -> None:
        self._recorded.clear()
        self._seen.clear()
        self._where = None


class _Where:
    """The stream on which recordings run, one for making them, and the memory that they share."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.pool = device, torch.cuda.graph_pool_handle()
        self.stream, self.capture = torch.cuda.current_stream(device), torch.cuda.Stream(device)

    def is_here(self) -> bool:
        """Whether that is the stream of this thread now."""
        return bool(torch.cuda.current_stream(self.device) == self.stream)


class Recording:
    """A function as one graph, with buffers for its inputs and its output."""

    def __init__(self, run: Run, inputs: Sequence[Tensor], where: _Where) -> None:
        self.where, self.graph = where, torch.cuda.CUDAGraph()
        self.inputs = [x.detach().clone() for x in inputs]
        with CAPTURES, torch.cuda.graph(self.graph, where.pool, where.capture, CAPTURE_MODE):
            self.output = run(*self.inputs)

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        for buffer, x in zip(self.inputs, inputs, strict=True):
            buffer.copy_(x)
        self.graph.replay()
        return self.output.clone()  # the next replay overwrites it


def records(inputs: Sequence[Tensor]) -> bool:
    """Whether a function of these can be recorded now."""
    if not inputs[0].is_cuda or torch.is_inference_mode_enabled() or torch.compiler.is_compiling():
        return False
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    return not wanted and not torch.cuda.is_current_stream_capturing()


def addresses(owners: Sequence[nn.Module]) -> tuple[int, ...] | None:
    """Where the weights of modules are, and a number that rises when a frozen one changes.

    None where a gradient of one is wanted, or where a hook must be called: it may bring a block's weights.
    """
    found: list[int] = []
    whole = all(_collect(owner, found, torch.is_grad_enabled()) for owner in owners)
    return tuple(found) if whole else None


def _collect(module: nn.Module, found: list[int], gradient: bool) -> bool:
    if module._forward_pre_hooks or module._forward_hooks:
        return False
    for tensor in _tensors(module):
        if (gradient and tensor.requires_grad) or tensor.is_inference():
            return False
        if not tensor.requires_grad:  # what trains is changed in place at every step, and read in place
            found.append(tensor._version)
        found.append(tensor.data_ptr())
    return all(_collect(part, found, gradient) for part in module._modules.values() if part is not None)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    for table in (module._parameters, module._buffers):
        for tensor in table.values():
            if tensor is not None:
                yield tensor


def _layout(inputs: Sequence[Tensor]) -> Layout:
    kind = inputs[0].device.type
    mixed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return mixed, inputs[0].device, *((tuple(x.shape), x.dtype) for x in inputs)
