"""Two files or folders of weights compared by value."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch

from vglm_train.checkpoint.convert.registry import FORMATS, raw_tensors, recognise
from vglm_train.checkpoint.convert.source import Options
from vglm_train.checkpoint.convert.summary import group_of, listed
from vglm_train.checkpoint.load.lazy_tensors import Lazy, Tensors
from vglm_train.errors import UserError


@dataclass(slots=True)
class Difference:
    """largest: group of names -> (largest absolute difference, tensors, of which differ)."""

    only_first: list[str]
    only_second: list[str]
    shapes: list[str] = field(default_factory=list)
    dtypes: int = 0
    largest: dict[str, tuple[float, int, int]] = field(default_factory=dict)

    @property
    def same(self) -> bool:
        return not (self.only_first or self.only_second or self.shapes or any(d[2] for d in self.largest.values()))


def diff(first: Path, second: Path, options: Options) -> tuple[bool, list[str]]:
    """Whether both hold the same values under the same names, and lines that say where they do not.

    Files of one format are compared under their own names, others under ours.
    """
    kinds = _kind(first), _kind(second)
    if kinds[0] == kinds[1]:
        tensors = [_raw(first, kinds[0]), _raw(second, kinds[1])]
        names = f"names of {kinds[0] or 'the files'}"
    else:
        tensors = [_ours(path, kind, options) for path, kind in zip((first, second), kinds, strict=True)]
        names = "our names"
    difference = compare(*tensors)
    return difference.same, [f"{first} ({kinds[0] or 'unknown'}) and {second} ({kinds[1] or 'unknown'}), by {names}",
                        *_lines(difference)]  # fmt: skip


def compare(first: Tensors, second: Tensors) -> Difference:
    """Tensor by tensor, in fp64 where they differ."""
    difference = Difference(sorted(set(first) - set(second)), sorted(set(second) - set(first)))
    for name in (name for name in first if name in second):
        one, other = first[name], second[name]
        difference.dtypes += one.dtype != other.dtype
        if one.shape != other.shape:
            difference.shapes.append(f"{name} is {list(one.shape)} and {list(other.shape)}")
            continue
        distance, group = _distance(one, other), group_of(name)
        largest, tensors, differ = difference.largest.get(group, (0.0, 0, 0))
        difference.largest[group] = (max(largest, distance), tensors + 1, differ + (distance != 0))
    return difference


def _distance(one: Lazy, other: Lazy) -> float:
    """Largest absolute difference; infinite where one is not a number and the other is."""
    a, b = one.read(), other.read()
    if a.dtype == b.dtype and torch.equal(a, b):
        return 0.0
    a, b = a.double(), b.double()
    distance = torch.where(a.isnan() & b.isnan() | (a == b), 0.0, (a - b).abs())
    value = float(distance.max()) if distance.numel() else 0.0
    return math.inf if math.isnan(value) else value


def _kind(path: Path) -> str | None:
    """The format, or None for tensors of a kind that is not known."""
    try:
        return recognise(path)
    except UserError:
        if not path.exists():
            raise
        return None


def _raw(path: Path, kind: str | None) -> Tensors:
    return raw_tensors(path, kind or "file")


def _ours(path: Path, kind: str | None, options: Options) -> Tensors:
    if kind is None:
        raise UserError(f"{path} is none of the formats known here ({', '.join(FORMATS)}), and the other one is.")
    return FORMATS[kind].read(path, options).tensors


def _lines(difference: Difference) -> list[str]:
    lines = [listed("only in the first", difference.only_first), listed("only in the second", difference.only_second)]
    lines += [f"  {line}" for line in difference.shapes]
    if difference.dtypes:
        lines.append(f"  {difference.dtypes} tensors of another dtype")
    width = max([len(name) for name in difference.largest] or [0])
    for name, (largest, tensors, differ) in difference.largest.items():
        lines.append(f"  {name:<{width}}  {tensors} tensors, {differ} differ, largest difference {largest:.3g}")
    return [*lines, "the same" if difference.same else "not the same"]
