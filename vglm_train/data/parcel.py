"""A batch as one piece of memory, on its way from a loader's process to the run's.

A process gets each tensor of another as a file that it must ask for, map and pin. In Python that takes half a
millisecond each, in which the run's process launches nothing. A batch has up to ten tensors.
"""

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from vglm_train.batch import Batch
from vglm_train.errors import UserError

ALIGNED = 64  # bytes, of where a tensor starts


class Place(NamedTuple):
    """Where a tensor lies."""

    start: int  # byte
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Parcel:
    """A batch's tensors behind one another, and the rest of it as it is."""

    kind: type[Batch]
    memory: Tensor  # [bytes] uint8
    places: dict[str, Place]
    rest: dict[str, Any]

    def pin_memory(self) -> "Parcel":
        """The same in page-locked memory; called by torch's DataLoader."""
        return Parcel(self.kind, self.memory.pin_memory(), self.places, self.rest)

    def batch(self) -> Batch:
        """The batch; its tensors lie in the parcel's memory."""
        tensors: dict[str, Any] = {name: _view(self.memory, place) for name, place in self.places.items()}
        return self.kind(**tensors, **self.rest)


def pack(item: Batch | UserError) -> Parcel | UserError:
    """A batch's parcel, in shared memory if a loader's process makes it. An error stays what it is."""
    if isinstance(item, UserError):
        return item
    values = {field.name: getattr(item, field.name) for field in fields(item)}
    tensors = {name: _dense(value) for name, value in values.items() if isinstance(value, Tensor)}
    places, start = {}, 0
    for name, tensor in tensors.items():
        places[name] = Place(start, tensor.dtype, tuple(tensor.shape), tensor.stride())
        start += -(-tensor.nbytes // ALIGNED) * ALIGNED
    memory = _room(start)
    for name, tensor in tensors.items():
        _view(memory, places[name]).copy_(tensor)
    return Parcel(type(item), memory, places, {name: values[name] for name in values.keys() - tensors.keys()})


def _dense(tensor: Tensor) -> Tensor:
    """Without gaps, in the order in which it lies if that is one of torch's two."""
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor
    return tensor.contiguous()


def _view(memory: Tensor, place: Place) -> Tensor:
    """The tensor at `place`."""
    count = place.dtype.itemsize * torch.Size(place.size).numel()
    return memory[place.start : place.start + count].view(place.dtype).as_strided(place.size, place.stride)


def _room(size: int) -> Tensor:
    """[size] uint8. Of a loader's process at once in shared memory, to which it would be copied otherwise."""
    if get_worker_info() is None:
        return torch.empty(size, dtype=torch.uint8)
    shared = torch.UntypedStorage._new_shared(size)
    return torch.empty(0, dtype=torch.uint8).set_(shared, 0, (size,), (1,))
