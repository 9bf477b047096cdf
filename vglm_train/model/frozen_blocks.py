"""Frozen blocks whose weights lie elsewhere until they run: divided among the ranks, or in the machine's memory.

A frozen block has neither gradients nor an optimizer: its parameters and buffers, codes of few bits included, are bytes
that must be there while it runs, forward and backward. They become one flat row of bytes, of which each rank keeps a
piece. Before the block runs, the row gets memory again and is filled, and that of the next block is filled meanwhile on
another stream. The tensors of the block are views of the row all the time, and so is what autograd keeps for backward.
When the block has run, only the row's memory is given back. So nothing is computed twice, and results are the same
bits.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vglm_train.config.run import Config
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.log import console
from vglm_train.model.visual import VisualModel
from vglm_train.model.visual_language import VisualLanguageModel

ALIGNMENT = 256  # bytes, as torch's own allocations
DONE = -1
log = logging.getLogger(console.LOGGER)


class _Place(NamedTuple):
    """Where a tensor belongs: `table` is the `_parameters` or `_buffers` of `module`."""

    module: nn.Module
    table: dict[str, Any]
    name: str
    tensor: Tensor

    @property
    def size(self) -> int:
        return self.tensor.numel() * self.tensor.element_size()


class FrozenBlocks:
    """Blocks in the order in which they run. Every rank adds the same ones and runs them in the same order, but within
    `Ranks.together`.

    `ranks`: those that each keep a piece of every block. `offload`: the pieces are in the machine's memory.
    """

    def __init__(self, ranks: Ranks, offload: bool) -> None:
        self.ranks, self.offload = ranks, offload
        self.stream = torch.cuda.Stream(ranks.device) if ranks.device.type == "cuda" else None
        self.blocks: list[_Block] = []
        self._stacks: list[int] = []  # of each block
        self._filled: dict[int, torch.cuda.Event | None] = {}  # blocks that have memory -> when it holds their weights
        self._hooks: list[RemovableHandle] = []
        self._alone = False
        if ranks.world > 1:
            ranks.shared.append(self)

    @torch.no_grad()
    def add(self, model: nn.Module, blocks: Iterable[nn.Module]) -> None:
        """Take the weights of a stack of blocks of `model`, one block after the other, from whatever device.

        Left out is what trains, and what stands in more than one place of the model. The blocks' own tensors then are
        no parameters of the model any more, until `restore`.
        """
        stack, shared = max(self._stacks, default=-1) + 1, _shared(model)
        for block in blocks:
            number = len(self.blocks)
            if not any(_places(block, shared)):
                continue
            self.blocks.append(_Block(list(_places(block, shared)), self.ranks, self.offload))
            self._stacks.append(stack)
            self._hooks += [
                block.register_forward_pre_hook(partial(self._before, number)),
                block.register_forward_hook(partial(self._after, number)),
            ]

    @torch.no_grad()
    def restore(self, keep: bool) -> None:
        """Put the weights back into the model, in the machine's memory; all ranks call it.

        `keep`: whether this rank wants them. Without, its blocks can run no more.
        """
        self._release(set(self._filled))
        for hook in self._hooks:
            hook.remove()
        for block in self.blocks:
            block.fill()
            if keep:
                block.put_back()
            block.empty()

    def _before(self, number: int, module: nn.Module, inputs: Any) -> None:
        self._use(number, 1)

    def _after(self, number: int, module: nn.Module, inputs: Any, output: Any) -> None:
        """Backward needs the weights again once it has reached the gradient of the block's output."""
        hidden = output[0] if isinstance(output, tuple | list) else output  # GPT's returns a list
        if hidden.requires_grad:
            hidden.register_hook(partial(self._before_backward, number))

    def _before_backward(self, number: int, gradient: Tensor) -> None:
        with torch.no_grad():
            self._use(number, -1)

    @torch.no_grad()
    def _use(self, number: int, step: int) -> None:
        """Have a block's weights, begin to fetch those of the next, and free all others."""
        if self._alone:
            if number not in self._filled:
                self._round(number)
            return
        following = number + step
        there = 0 <= following < len(self.blocks)
        # backward ends at the first block of a stack: no gradient goes on into the image encoder
        if not there or (step < 0 and self._stacks[following] != self._stacks[number]):
            following = number
        self._release(set(self._filled) - {number, following})
        self._fetch(number)
        if (event := self._filled[number]) is not None:
            torch.cuda.current_stream(self.ranks.device).wait_event(event)
        self._fetch(following)

    def _fetch(self, number: int) -> None:
        if number in self._filled:
            return
        if self.stream is None:
            self.blocks[number].fill()
            self._filled[number] = None
            return
        self.blocks[number].allocate()  # on the stream that computes, whose kernels used this memory last
        self.stream.wait_stream(torch.cuda.current_stream(self.ranks.device))
        with torch.cuda.stream(self.stream):
            self.blocks[number].fill()
            self._filled[number] = self.stream.record_event()

    def _release(self, numbers: Iterable[int]) -> None:
        for number in list(numbers):
            if (event := self._filled.pop(number)) is not None:
                torch.cuda.current_stream(self.ranks.device).wait_event(event)
            self.blocks[number].empty()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within it the ranks run what they like. At its end each one helps the others until all have ended.

        In each round every rank says which block it wants, and all of them together fetch those. Nothing is fetched
        ahead, so this is slower.
        """
        self._release(set(self._filled))
        self._alone = True
        try:
            yield
        except Exception:
            self._end_alone()
            raise
        self._end_alone()

    def _end_alone(self) -> None:
        while self._round(DONE):
            pass
        self._release(set(self._filled))
        self._alone = False

    def _round(self, wanted: int) -> bool:
        """Whether any rank still wants a block."""
        self._release(set(self._filled))
        wishes = self.ranks.gather(torch.tensor([wanted], device=self.ranks.device)).tolist()
        for number in sorted(set(wishes) - {DONE}):
            self.blocks[number].fill()
            if number == wanted:
                self._filled[number] = None
            else:
                self.blocks[number].empty()
        return any(wish != DONE for wish in wishes)


class _Block:
    """The frozen tensors of one block as a row of bytes, of which this rank keeps a piece."""

    def __init__(self, places: Sequence[_Place], ranks: Ranks, offload: bool) -> None:
        self.ranks = ranks
        self.orders = [(place.table, list(place.table)) for place in places]
        self.is_parameter = [isinstance(place.tensor, nn.Parameter) for place in places]
        ends = list(accumulate(place.size + -place.size % ALIGNMENT for place in places))
        starts = [0, *ends[:-1]]
        self.piece_size = -(-ends[-1] // (ranks.world * ALIGNMENT)) * ALIGNMENT
        self.size = self.piece_size * ranks.world
        row = torch.zeros(self.size, dtype=torch.uint8, device=places[0].tensor.device)
        for place, start in zip(places, starts):
            row[start : start + place.size] = place.tensor.detach().reshape(-1).view(torch.uint8)
        own = row[ranks.rank * self.piece_size :][: self.piece_size]
        self.piece = _pinned(own, ranks.device) if offload else own.to(ranks.device, copy=True)
        self.row = torch.empty(self.size, dtype=torch.uint8, device=ranks.device)
        data = self.row.data  # with a version of its own: autograd must not think that fetched weights were changed
        self.places = [self._replace(place, data[start : start + place.size]) for place, start in zip(places, starts)]
        self.empty()

    def _replace(self, place: _Place, part: Tensor) -> _Place:
        view = part.view(place.tensor.dtype).view(place.tensor.shape)
        del place.table[place.name]
        place.module.__dict__[place.name] = view
        return place._replace(tensor=view)

    def allocate(self) -> None:
        storage = self.row.untyped_storage()
        if storage.size() != self.size:  # resize_ takes new memory also where the size stays
            storage.resize_(self.size)

    def empty(self) -> None:
        self.row.untyped_storage().resize_(0)

    def fill(self) -> None:
        """Fetch the whole row. With several ranks, a collective."""
        self.allocate()
        if self.ranks.world == 1:
            self.row.copy_(self.piece, non_blocking=True)
            return
        own = self.piece
        if own.device != self.row.device:
            own = self.row[self.ranks.rank * self.piece_size :][: self.piece_size]
            own.copy_(self.piece, non_blocking=True)
        self.ranks.gather_into(self.row, own)

    def put_back(self) -> None:
        """The weights as parameters and buffers in the machine's memory, in the order they had."""
        for place, is_parameter in zip(self.places, self.is_parameter):
            value = place.tensor.detach().to("cpu", copy=True)
            del place.module.__dict__[place.name]
            place.table[place.name] = nn.Parameter(value, requires_grad=False) if is_parameter else value
        for table, names in self.orders:
            content = dict(table)
            table.clear()
            table.update({name: content.pop(name) for name in names}, **content)


def _places(block: nn.Module, shared: set[int]) -> Iterator[_Place]:
    """The tensors of a block that do not train."""
    for module in block.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None and not tensor.requires_grad and id(tensor) not in shared:
                    yield _Place(module, table, name, tensor)


def _shared(model: nn.Module) -> set[int]:
    """Ids of tensors that stand in more than one place of a model; a module that does counts as often."""
    modules = [module for _, module in model.named_modules(remove_duplicate=False)]
    tables = [table for module in modules for table in (module._parameters, module._buffers)]
    counts = Counter(id(tensor) for table in tables for tensor in table.values() if tensor is not None)
    return {key for key, count in counts.items() if count > 1}


def _pinned(piece: Tensor, device: torch.device) -> Tensor:
    """A copy in the machine's memory, from which a GPU can read while it computes.

    torch's own pinned memory comes in powers of two.
    """
    held = torch.empty(piece.shape, dtype=piece.dtype, device="cpu")
    if device.type == "cuda":
        runtime: Any = torch.cuda.cudart()
        status = int(runtime.cudaHostRegister(held.data_ptr(), held.numel(), 0))
        if status:
            raise UserError(
                f"engine.offload: {held.numel() / 1e9:.2f} GB more of the machine's memory could not be locked for the "
                f"GPU (CUDA error {status}). --check tells how much is needed; free memory, or use engine.zero 3 on "
                "several GPUs."
            )
    return held.copy_(piece)


def moved_stacks(model: VisualModel, config: Config) -> list[list[nn.Module]]:
    """The stacks of frozen blocks that a step runs. With stored features the image encoder is none of them."""
    stacks = model.stacks() if config.data.features is None else model.stacks()[1:]
    return [[block for block in stack if block not in model.vision.trained] for stack in stacks]


def move_blocks(model: VisualModel, config: Config, ranks: Ranks) -> FrozenBlocks:
    """Divide the frozen blocks of a model among the ranks (engine.zero 3), keep them in the machine's memory
    (engine.offload), or both. The rest of the model stays where it is."""
    frozen = FrozenBlocks(
        ranks if config.engine.zero == 3 else Ranks(device=ranks.device), config.engine.offload == "cpu"
    )
    for stack in moved_stacks(model, config):
        frozen.add(model, stack)
    if isinstance(model, VisualLanguageModel):
        model.language.whole = False
    kept = sum(block.piece_size for block in frozen.blocks)
    place = "the machine's memory" if frozen.offload else "this card's memory"
    log.info("%d frozen blocks: %.2f GB of them in %s", len(frozen.blocks), kept / 1e9, place)
    return frozen
