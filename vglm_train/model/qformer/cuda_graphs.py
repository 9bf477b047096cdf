"""Passes of the Q-Former as CUDA graphs, for steps in which the host cannot launch as fast as the device computes.

A pass of twelve blocks is thousands of small launches; recorded once, it is one launch forward and one backward.
n rows, s places, d width, p image tokens.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vglm_train.model.qformer.layers import Block, ImageKey

WARM_UP = 3  # runs before the recording: libraries choose their kernels in them
CAPTURE_MODE = (
    "thread_local"  # other threads, such as the one that pins batches, may use the device while this one records
)
RowsEach = tuple[tuple[int, ...], ...]  # of each block's groups of images, rows that read an image


class PassGraphs:
    """One graph each way for every shape of a pass, recorded when it is first met.

    The same operations, and the same random draws, as without. A shape may be run once before its backward: what a
    graph keeps for backward lies in one place.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._pass = _Pass(blocks)
        named = dict(self._pass.named_parameters())
        self._names, self._parameters = tuple(named), tuple(named.values())
        self._recorded: dict[tuple[object, ...], Recording] = {}

    def __call__(self, hidden: Tensor, queries: int, keys: Sequence[tuple[ImageKey, ...]], bias: Tensor) -> Tensor:
        """What the blocks make of hidden [n,s,d], of which the first `queries` places are queries."""
        readers = tuple(tuple(group.rows_each for group in groups) for groups in keys)
        inputs = (hidden, bias, *(group.packed for groups in keys for group in groups))
        layout = (queries, readers, *(tuple(x.shape) for x in inputs))
        if layout not in self._recorded:
            self._recorded[layout] = Recording(self._function(queries, readers), inputs, self._parameters)
        return _Replay.apply(self._recorded[layout], *inputs, *self._parameters)

    def __len__(self) -> int:
        """Shapes recorded."""
        return len(self._recorded)

    def _function(self, queries: int, readers: RowsEach) -> Callable[..., Tensor]:
        def run(inputs: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
            hidden, bias, *packed = inputs
            weights = dict(zip(self._names, parameters, strict=True))
            return torch.func.functional_call(self._pass, weights, (hidden, queries, packed, readers, bias))

        return run


class Recording:
    """A function of tensors as two graphs, with places of its own for inputs, output and gradients.

    Inputs are copied to their places; parameters are read, and may be updated, where they lie.
    """

    def __init__(self, run: Callable[..., Tensor], inputs: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
        device = inputs[0].device
        self.inputs = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
        # not the parameters themselves: their gradients are awaited on another stream than the recording's
        self.parameters = [p.detach().requires_grad_(p.requires_grad) for p in parameters]
        self._needed = [place for place in (*self.inputs, *self.parameters) if place.requires_grad]
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        draws = torch.cuda.get_rng_state(device)
        mixed, dtype = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
        # a weight's copy that autocast had made outside would be read for ever
        with torch.autocast(device.type, dtype, enabled=mixed, cache_enabled=False):
            self._warm_up(run)
            with torch.cuda.graph(self.forward, capture_error_mode=CAPTURE_MODE):
                output = run(self.inputs, self.parameters)
        self.output, self.grad = output.detach(), torch.empty_like(output)
        with torch.cuda.graph(self.backward, pool=self.forward.pool(), capture_error_mode=CAPTURE_MODE):
            found = self._gradients(output, self.grad)
        torch.cuda.set_rng_state(draws, device)
        left = iter(found)
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
    """A recording between real inputs and parameters."""

    @staticmethod
    def forward(ctx, recording: Recording, *tensors: Tensor) -> Tensor:
        ctx.recording = recording
        for place, x in zip(recording.inputs, tensors):
            place.copy_(x)
        recording.forward.replay()
        return recording.output.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        recording: Recording = ctx.recording
        recording.grad.copy_(grad)
        recording.backward.replay()
        # the recording holds them, so autograd adds or copies them, and never keeps what the next replay overwrites
        return None, *recording.gradients


class _Pass(nn.Module):
    """The blocks one after the other, from tensors alone."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.blocks: Sequence[Block] = nn.ModuleList(blocks)  # type: ignore[assignment]

    def forward(
        self, hidden: Tensor, queries: int, packed: Sequence[Tensor], readers: RowsEach, bias: Tensor
    ) -> Tensor:
        """`packed`: the keys of all blocks' groups of images [.,p,2d], one after the other."""
        left = iter(packed)
        for block, each in zip(self.blocks, readers, strict=True):
            images = [_unpack(block, next(left), rows) for rows in each]
            hidden, _ = block(hidden, queries, images, bias)
        return hidden


def _unpack(block: Block, packed: Tensor, rows_each: int) -> ImageKey:
    assert block.cross is not None
    return block.cross.unpack(packed)._replace(rows_each=rows_each)
