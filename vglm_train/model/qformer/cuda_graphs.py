"""Passes of the Q-Former as CUDA graphs, for steps in which the host launches kernels slower than the device runs them.

A pass of twelve blocks is thousands of small launches. Recorded once, it is one launch forward and one backward.
n rows, s tokens, d width, p image tokens.
"""

import logging
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vglm_train.autograd import apply
from vglm_train.log import console
from vglm_train.model.qformer.layers import Block, ImageKey
from vglm_train.model.recorder import AFTER, CAPTURE_MODE, CAPTURES, MOST

WARM_UP = 3  # runs before the recording, in which libraries choose their kernels
log = logging.getLogger(console.LOGGER)
RowsEach = tuple[tuple[int, ...], ...]  # for each block, of each group of images: rows that read one image


class PassGraphs:
    """A forward and a backward graph for the shapes of a pass that occur again, the first few of them.

    Operations and random numbers are the same as without graphs. Before the backward of a pass neither its shape may
    run again nor one whose keys it reads, since a graph keeps what backward needs in one buffer: RuntimeError else.
    Under autocast all weights are cast together, once for the passes over the same images, instead of one by one in
    each. Passes that read the same keys read one buffer.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._pass = _Pass(blocks)
        named = dict(self._pass.named_parameters())
        self._names, self._parameters = tuple(named), tuple(named.values())
        self._buffers: dict[torch.dtype, list[Tensor]] = {}  # of the cast weights, which graphs read in place
        self._cast: Sequence[Tensor] | None = None  # the weights of the passes over these images
        self._held: dict[int, _Held] = {}  # id of a tensor of keys of these images -> where a pass has copied it
        self._recorded: dict[tuple[object, ...], Recording] = {}
        self._seen: Counter[tuple[object, ...]] = Counter()
        self._most = MOST

    def start(self) -> None:
        """Other images follow, and perhaps other weights."""
        self._cast = None

    def __reduce__(self) -> Any:
        return PassGraphs, (list(self._pass.blocks),)  # a copy of a model has weights and recordings of its own

    def __call__(
        self, hidden: Tensor, queries: int, keys: Sequence[tuple[ImageKey, ...]], bias: Tensor | None, text: bool = True
    ) -> Tensor | None:
        """The blocks' output for hidden [n,s,d], the first `queries` tokens of which are queries.

        None where nothing is recorded of this shape: the blocks must run.
        """
        rows_each = tuple(tuple(group.rows_each for group in groups) for groups in keys)
        biases = () if bias is None else (bias,)
        inputs = (hidden, *biases, *(group.packed for groups in keys for group in groups))
        buffers = [self._buffer(x) for x in inputs]
        kind = hidden.device.type
        mixed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        shapes = ((tuple(x.shape), x.dtype, x.requires_grad) for x in inputs)
        where = (None if buffer is None else buffer.data_ptr() for buffer in buffers)
        shape = (queries, rows_each, text, len(biases), mixed, *shapes)
        layout = (shape, *where)
        if layout not in self._recorded and not self._record(shape, layout, inputs, buffers):
            return None
        recording = self._recorded[layout]
        output: Tensor = apply(_Replay, recording, *inputs, *self._weights(kind))
        filled = {buffer.data_ptr() for buffer in recording.inputs}
        before = {key: held for key, held in self._held.items() if held.buffer.data_ptr() not in filled}
        self._held = before | {id(x): _Held(x, buffer) for x, buffer in zip(inputs, recording.inputs)}
        return output

    def _buffer(self, x: Tensor) -> Tensor | None:
        """Where a pass over these images has copied the same tensor."""
        held = self._held.get(id(x))
        return held.buffer if held is not None and held.holds(x) else None

    def _record(
        self,
        shape: tuple[Any, ...],
        layout: tuple[object, ...],
        inputs: Sequence[Tensor],
        buffers: Sequence[Tensor | None],
    ) -> bool:
        """Whether this shape is recorded now, with its inputs where `layout` has them."""
        self._seen[shape] += 1
        wanted = any(x.requires_grad for x in (*inputs, *self._parameters))
        if not wanted or self._seen[shape] < AFTER or len(self._recorded) >= self._most:
            return False
        queries, rows_each, text, biases = shape[:4]
        run = self._function(queries, rows_each, text, biases)
        try:
            with CAPTURES:
                self._recorded[layout] = Recording(run, inputs, buffers, self._weights(inputs[0].device.type))
        except torch.OutOfMemoryError:
            log.info("the card is too full to record more passes of the Q-Former as CUDA graphs: they run without")
            self._most = 0
            return False
        return True

    def __len__(self) -> int:
        """Number of recorded shapes."""
        return len(self._recorded)

    def _weights(self, device: str) -> Sequence[Tensor]:
        """The parameters in autocast's dtype."""
        if not torch.is_autocast_enabled(device):
            return self._parameters
        if self._cast is None:
            dtype = torch.get_autocast_dtype(device)
            if dtype not in self._buffers:
                self._buffers[dtype] = [torch.empty_like(p, dtype=dtype) for p in self._parameters]
            self._cast = apply(_Cast, self._buffers[dtype], *self._parameters)
        return self._cast

    def _function(self, queries: int, rows_each: RowsEach, text: bool, biases: int) -> Callable[..., Tensor]:
        def run(inputs: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
            hidden, *packed = inputs
            bias = packed.pop(0) if biases else None
            weights = dict(zip(self._names, parameters, strict=True))
            given = (hidden, queries, packed, rows_each, bias, text)
            output: Tensor = torch.func.functional_call(self._pass, weights, given)
            return output

        return run


class _Held:
    """A tensor, as it was, and the buffer of a recording that has its values."""

    def __init__(self, x: Tensor, buffer: Tensor) -> None:
        self.buffer, self._tensor, self._version = buffer, weakref.ref(x), x._version

    def holds(self, x: Tensor) -> bool:
        return self._tensor() is x and self._version == x._version


class Recording:
    """A function of tensors as two graphs, with static buffers for inputs, output and gradients.

    Inputs are copied to their buffers, but for those that another recording's `buffers` hold already. Parameters are
    read in place and may be updated in place.
    """

    def __init__(
        self,
        run: Callable[..., Tensor],
        inputs: Sequence[Tensor],
        buffers: Sequence[Tensor | None],
        parameters: Sequence[Tensor],
    ) -> None:
        device = inputs[0].device
        self.own = [buffer is None for buffer in buffers]
        self.inputs = [
            (x.clone() if buffer is None else buffer).detach().requires_grad_(x.requires_grad)
            for x, buffer in zip(inputs, buffers)
        ]
        # not the parameters themselves: their gradients are awaited on another stream than the recording's
        self.parameters = [p.detach().requires_grad_(p.requires_grad) for p in parameters]
        self._needed = [x for x in (*self.inputs, *self.parameters) if x.requires_grad]
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        rng_state = torch.cuda.get_rng_state(device)
        try:
            gradients = self._record(run)
        finally:
            torch.cuda.set_rng_state(rng_state, device)
        left = iter(gradients)
        self.gradients = tuple(next(left) if x.requires_grad else None for x in (*self.inputs, *self.parameters))

    def versions(self) -> list[int]:
        """Numbers that rise when an input's buffer is filled anew."""
        return [x._version for x in self.inputs]

    def _record(self, run: Callable[..., Tensor]) -> tuple[Tensor | None, ...]:
        """Make both graphs; what backward gives."""
        kind = self.inputs[0].device.type
        mixed, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        # a copy of a weight from autocast's cache would be read for ever
        with torch.autocast(kind, dtype, enabled=mixed, cache_enabled=False):
            self._warm_up(run)
            with torch.cuda.graph(self.forward, capture_error_mode=CAPTURE_MODE):
                output = run(self.inputs, self.parameters)
        self.output, self.grad = output.detach(), torch.empty_like(output)
        with torch.cuda.graph(self.backward, pool=self.forward.pool(), capture_error_mode=CAPTURE_MODE):
            return self._gradients(output, self.grad)

    def _warm_up(self, run: Callable[..., Tensor]) -> None:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # what the usual stream has free is of no use to another
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(WARM_UP):
                output = run(self.inputs, self.parameters)
                self._gradients(output, torch.zeros_like(output))
        torch.cuda.synchronize()

    def _gradients(self, output: Tensor, grad: Tensor) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(output, self._needed, grad, allow_unused=True)


class _Cast(torch.autograd.Function):
    """Copies parameters to buffers of another dtype, and their gradients back, each in a few launches."""

    @staticmethod
    def forward(ctx: Any, buffers: list[Tensor], *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.dtypes = [p.dtype for p in parameters]
        torch._foreach_copy_(buffers, parameters)
        return tuple(buffer.detach() for buffer in buffers)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        wide = [None if x is None else torch.empty_like(x, dtype=dtype) for x, dtype in zip(grads, ctx.dtypes)]
        torch._foreach_copy_([x for x in wide if x is not None], [x for x in grads if x is not None])
        return None, *wide


class _Replay(torch.autograd.Function):
    """Runs a recording on real inputs and parameters."""

    @staticmethod
    def forward(ctx: Any, recording: Recording, *tensors: Tensor) -> Tensor:
        ctx.recording = recording
        for buffer, x, own in zip(recording.inputs, tensors, recording.own):
            if own:
                buffer.copy_(x)
        recording.forward.replay()
        ctx.versions = recording.versions()
        return recording.output.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        recording: Recording = ctx.recording
        if recording.versions() != ctx.versions:
            raise RuntimeError(
                "a recorded pass of the Q-Former ran again before its backward, or one whose keys it reads"
            )
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
        self,
        hidden: Tensor,
        queries: int,
        packed: Sequence[Tensor],
        rows_each: RowsEach,
        bias: Tensor | None,
        text: bool,
    ) -> Tensor:
        """`packed`: the keys of all blocks' groups of images [.,p,2d], one after the other."""
        left = iter(packed)
        for number, (block, each) in enumerate(zip(self.blocks, rows_each, strict=True), 1):
            images = [ImageKey(next(left), rows) for rows in each]
            hidden, _ = block(hidden, queries, images, bias, text=text or number < len(self.blocks))
        return hidden
