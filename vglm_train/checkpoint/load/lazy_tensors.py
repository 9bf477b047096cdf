"""Tensors that are known by shape and dtype, and read on demand."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from vglm_train.checkpoint.keymaps.keymap import KeyMap, KeyMapError, KeyRule
from vglm_train.checkpoint.load.finite import check_finite
from vglm_train.checkpoint.load.tensor_files import TensorFile


@dataclass(frozen=True, slots=True)
class Lazy:
    """A tensor that `read` gives, mapped from a file where that is possible."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor] = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.meta.numel() * self.dtype.itemsize

    @property
    def meta(self) -> Tensor:
        return torch.empty(self.shape, dtype=self.dtype, device="meta")


Tensors = dict[str, Lazy]


def of_shards(shards: Iterable[TensorFile]) -> Tensors:
    """The tensors of opened files by name; a name in two files is read from the first."""
    tensors: Tensors = {}
    for shard in shards:
        for key, shape in shard.shapes.items():
            tensors.setdefault(key, Lazy(tuple(shape), shard.dtypes[key], partial(shard.read, key)))
    return tensors


def of_tensors(tensors: Mapping[str, Tensor]) -> Tensors:
    """Tensors that are in memory."""
    return {name: Lazy(tuple(value.shape), value.dtype, partial(_same, value)) for name, value in tensors.items()}


def convert(table: KeyMap, tensors: Mapping[str, Lazy]) -> Tensors:
    """`table` applied: shapes and dtypes at once, values when they are read.

    Raises KeyMapError with everything that the table does not fit.
    """
    result: Tensors = {}
    problems = []
    for rule, sources, targets in table.steps(tensors):
        parts = [tensors[name] for name in sources]
        try:
            made = rule.forward(*(part.meta for part in parts))
        except (KeyMapError, RuntimeError) as error:
            problems.append(f"{', '.join(sources)}: {error}")
            continue
        for index, (name, meta) in enumerate(zip(targets, made, strict=True)):
            result[name] = Lazy(tuple(meta.shape), meta.dtype, partial(_convert, rule, parts, index))
    if problems:
        raise KeyMapError("; ".join(problems))
    return result | {copy: result[original] for copy, original in table.repeated(result).items()}


def changed(tensor: Lazy, function: Callable[[Tensor], Tensor], shape: Sequence[int]) -> Lazy:
    """`function` of a tensor, which gives this shape."""
    return Lazy(tuple(shape), tensor.dtype, partial(_changed, tensor, function))


def checked(tensors: Mapping[str, Lazy], *sources: Path) -> Tensors:
    """The same tensors, whose values are refused where they are not finite; `sources`: what they are read from.

    A tensor with two names stays one.
    """
    made: dict[int, Lazy] = {}
    for name, tensor in tensors.items():
        read = partial(_checked, tensor, name, sources)
        made.setdefault(id(tensor), Lazy(tensor.shape, tensor.dtype, read))
    return {name: made[id(tensor)] for name, tensor in tensors.items()}


def prefixed(tensors: Mapping[str, Lazy], prefix: str) -> Tensors:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def below(tensors: Mapping[str, Lazy], prefix: str) -> Tensors:
    """Those whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def total(tensors: Mapping[str, Lazy]) -> int:
    """Bytes."""
    return sum(tensor.size for tensor in tensors.values())


def _convert(rule: KeyRule, parts: Sequence[Lazy], index: int) -> Tensor:
    return rule.forward(*(part.read() for part in parts))[index]


def _changed(tensor: Lazy, function: Callable[[Tensor], Tensor]) -> Tensor:
    return function(tensor.read())


def _checked(tensor: Lazy, name: str, sources: Sequence[Path]) -> Tensor:
    value = tensor.read()
    check_finite(value, name, *sources)
    return value


def _same(tensor: Tensor) -> Tensor:
    return tensor
