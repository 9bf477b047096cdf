"""Passes of the Q-Former as CUDA graphs, for steps in which the host launches kernels slower than the device runs them.

A pass of twelve blocks is thousands of small launches. Recorded once, it is one launch forward and one backward.
n rows, s tokens, d width, p image tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vglm_train.model.qformer.layers import Block, ImageKey

WARM_UP = 3  # runs before the recording, in which libraries choose their kernels
CAPTURE_MODE = "thread_local"  # other threads, such as the one that pins batches, may use the device meanwhile
RowsEach = tuple[tuple[int, ...], ...]  # for each block, of each group of images: rows that read one image


class PassGraphs:
    """A forward and a backward graph for every shape of a pass, recorded when the shape first occurs.

    Operations and random numbers are the same as without graphs. A shape may run only once before its backward, since
    a graph keeps what backward needs in one buffer.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._pass = _Pass(blocks)
        named = dict(self._pass.named_parameters())
        self._names, self._parameters = tuple(named), tuple(named.values())
        self._recorded: dict[tuple[object, ...], Recording] = {}

    def __call__(self, hidden: Tensor, queries: int, keys: Sequence[tuple[ImageKey, ...]], bias: Tensor) -> Tensor:
        """The blocks' output for hidden [n,s,d], of which the first `queries` tokens are queries."""
        rows_each = tuple(tuple(group.rows_each for group in groups) for groups in keys)
        inputs = (hidden, bias, *(group.packed for groups in keys for group in groups))
        layout = (queries, rows_each, *(tuple(x.shape) for x in inputs))
        if layout not in self._recorded:
            self._recorded[layout] = Recording(self._function(queries, rows_each), inputs, self._parameters)
        return _Replay.apply(self._recorded[layout], *inputs, *self._parameters)

    def __len__(self) -> int:
        """Number of recorded shapes."""
        return len(self._recorded)

    def _function(self, queries: int, rows_each: RowsEach) -> Callable[..., Tensor]:
        def run(inputs: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
            hidden, bias, *packed = inputs
            weights = dict(zip(self._names, parameters, strict=True))
            return torch.func.functional_call(self._pass, weights, (hidden, queries, packed, rows_each, bias))

        return run


class Recording:
    """A function of tensors as two graphs, with static buffers for inputs, output and gradients.

    Inputs are copied to their buffers. Parameters are read in place and may be updated in place.
    """

    def __init__(self, run: Callable[..., Tensor], inputs: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
        device = inputs[0].device
        mixed, dtype = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
        self.inputs = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
        # not the parameters themselves: their gradients are awaited on another stream than the recording's
        self.parameters = [p.detach() for p in parameters]
        # all are cast at once, and their gradients back, instead of one by one as autocast does
        self._cast = [p.to(dtype) if mixed else p for p in self.parameters]
        for cast, parameter in zip(self._cast, parameters, strict=True):
            cast.requires_grad_(parameter.requires_grad)
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        rng_state = torch.cuda.get_rng_state(device)
        # a copy of a weight from autocast's cache would be read for ever
        with torch.autocast(device.type, dtype, enabled=mixed, cache_enabled=False):
            self._warm_up(run)
            with torch.cuda.graph(self.forward, capture_error_mode=CAPTURE_MODE):
                output = self._compute(run)
        self.output, self.grad = output.detach(), torch.empty_like(output)
        with torch.cuda.graph(self.backward, pool=self.forward.pool(), capture_error_mode=CAPTURE_MODE):
            self.gradients = self._gradients(output, self.grad)
        torch.cuda.set_rng_state(rng_state, device)

    def _warm_up(self, run: Callable[..., Tensor]) -> None:
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(WARM_UP):
                output = self._compute(run)
                self._gradients(output, torch.zeros_like(output))
        torch.cuda.synchronize()

    def _compute(self, run: Callable[..., Tensor]) -> Tensor:
        if self._cast[0] is not self.parameters[0]:
            with torch.no_grad():
                torch._foreach_copy_(self._cast, self.parameters)
        return run(self.inputs, self._cast)

    def _gradients(self, output: Tensor, grad: Tensor) -> list[Tensor | None]:
        """Of the inputs and then of the parameters, in the precision of each; None where there is none."""
        tensors = [*self.inputs, *self._cast]
        found = iter(torch.autograd.grad(output, [x for x in tensors if x.requires_grad], grad, allow_unused=True))
        gradients = [next(found) if x.requires_grad else None for x in tensors]
        first = len(self.inputs)
        narrow = [x for x in gradients[first:] if x is not None]
        wide = [torch.empty_like(x, dtype=self.parameters[0].dtype) for x in narrow]
        torch._foreach_copy_(wide, narrow)
        left = iter(wide)
        return [*gradients[:first], *(None if x is None else next(left) for x in gradients[first:])]


class _Replay(torch.autograd.Function):
    """Runs a recording on real inputs and parameters."""

    @staticmethod
    def forward(ctx: Any, recording: Recording, *tensors: Tensor) -> Tensor:
        ctx.recording = recording
        for buffer, x in zip(recording.inputs, tensors):
            buffer.copy_(x)
        recording.forward.replay()
        return recording.output.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        recording: Recording = ctx.recording
        recording.grad.copy_(grad)
        recording.backward.replay()
        # the recording also holds them, so autograd adds or copies them and never keeps what the next replay overwrites
        return None, *recording.gradients


class _Pass(nn.Module):
    """The blocks one after the other, with tensors as their only input."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.blocks: Sequence[Block] = nn.ModuleList(blocks)  # type: ignore[assignment]

    def forward(
        self, hidden: Tensor, queries: int, packed: Sequence[Tensor], rows_each: RowsEach, bias: Tensor
    ) -> Tensor:
        """`packed`: the keys of all blocks' groups of images [.,p,2d], one after the other."""
        left = iter(packed)
        for block, each in zip(self.blocks, rows_each, strict=True):
            images = [ImageKey(next(left), rows) for rows in each]
            hidden, _ = block(hidden, queries, images, bias)
        return hidden
