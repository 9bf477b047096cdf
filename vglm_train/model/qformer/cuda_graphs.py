"""Passes of the Q-Former as CUDA graphs, for steps in which the host launches kernels slower than the device runs them.

A pass of twelve blocks is thousands of small launches. Recorded once, it is one launch forward and one backward.
n rows, s tokens, d width, p image tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vglm_train.autograd import apply
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
        output: Tensor = apply(_Replay, self._recorded[layout], *inputs, *self._parameters)
        return output

    def __len__(self) -> int:
        """Number of recorded shapes."""
        return len(self._recorded)

    def _function(self, queries: int, rows_each: RowsEach) -> Callable[..., Tensor]:
        def run(inputs: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
            hidden, bias, *packed = inputs
            weights = dict(zip(self._names, parameters, strict=True))
            output: Tensor = torch.func.functional_call(self._pass, weights, (hidden, queries, packed, rows_each, bias))
            return output

        return run


class Recording:
    """A function of tensors as two graphs, with static buffers for inputs, output and gradients.

    Inputs are copied to their buffers. Parameters are read in place and may be updated in place.
    """

    def __init__(self, run: Callable[..., Tensor], inputs: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
        device = inputs[0].device
        self.inputs = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
        # not the parameters themselves: their gradients are awaited on another stream than the recording's
        self.parameters = [p.detach().requires_grad_(p.requires_grad) for p in parameters]
        self._needed = [x for x in (*self.inputs, *self.parameters) if x.requires_grad]
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        rng_state = torch.cuda.get_rng_state(device)
        mixed, dtype = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
        # a copy of a weight from autocast's cache would be read for ever
        with torch.autocast(device.type, dtype, enabled=mixed, cache_enabled=False):
            self._warm_up(run)
            with torch.cuda.graph(self.forward, capture_error_mode=CAPTURE_MODE):
                output = run(self.inputs, self.parameters)
        self.output, self.grad = output.detach(), torch.empty_like(output)
        with torch.cuda.graph(self.backward, pool=self.forward.pool(), capture_error_mode=CAPTURE_MODE):
            gradients = self._gradients(output, self.grad)
        torch.cuda.set_rng_state(rng_state, device)
        left = iter(gradients)
        self.gradients = tuple(next(left) if x.requires_grad else None for x in (*self.inputs, *self.parameters))

    def _warm_up(self, run: Callable[..., Tensor]) -> None:
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(WARM_UP):
                output = run(self.inputs, self.parameters)
                self._gradients(output, torch.zeros_like(output))
        torch.cuda.synchronize()

    def _gradients(self, output: Tensor, grad: Tensor) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(output, self._needed, grad, allow_unused=True)


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
            images = [_unpack(block, next(left), rows) for rows in each]
            hidden, _ = block(hidden, queries, images, bias)
        return hidden


def _unpack(block: Block, packed: Tensor, rows_each: int) -> ImageKey:
    assert block.cross is not None
    return block.cross.unpack(packed)._replace(rows_each=rows_each)
