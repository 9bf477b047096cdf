"""Tensors in words, for a person."""

import re
from collections.abc import Iterable, Mapping, Sequence

from vglm_train.checkpoint.load.lazy_tensors import Lazy, total


def folded(names: Iterable[str]) -> list[str]:
    """Names that differ in their first number written as one: a.{0,1,2}.weight; many numbers as a range."""
    groups: dict[tuple[str, str], list[int]] = {}
    plain = []
    for name in names:
        match = re.fullmatch(r"(.*?\.)(\d+)(\..*)", name)
        if match:
            groups.setdefault((match[1], match[3]), []).append(int(match[2]))
        else:
            plain.append(name)
    return plain + [f"{head}{_numbers(sorted(numbers))}{tail}" for (head, tail), numbers in groups.items()]


def listed(label: str, names: Sequence[str]) -> str:
    """One line: how many, and which."""
    return f"  {label} ({len(names)}): {', '.join(folded(names)) or 'none'}"


def groups(tensors: Mapping[str, Lazy], depth: int = 2) -> dict[str, dict[str, Lazy]]:
    """Tensors by the first words of their names, up to a number."""
    grouped: dict[str, dict[str, Lazy]] = {}
    for name, tensor in tensors.items():
        grouped.setdefault(group_of(name, depth), {})[name] = tensor
    return grouped


def group_of(name: str, depth: int = 2) -> str:
    words = name.split(".")
    numbers = [index for index, word in enumerate(words) if word.isdigit()]
    end = min([depth, len(words) - 1, *numbers])
    return ".".join(words[:end]) or words[0]


def size(tensors: Mapping[str, Lazy]) -> str:
    """Tensors, parameters, bytes and dtypes."""
    counts: dict[str, int] = {}
    for tensor in tensors.values():
        name = str(tensor.dtype).removeprefix("torch.")
        counts[name] = counts.get(name, 0) + 1
    kinds = ", ".join(f"{name}" if len(counts) == 1 else f"{name} x{n}" for name, n in sorted(counts.items()))
    numbers = sum(tensor.meta.numel() for tensor in tensors.values())
    return f"{len(tensors):,} tensors, {numbers:,} numbers, {bytes_of(total(tensors))}, {kinds or 'nothing'}"


def bytes_of(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def _numbers(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    if len(numbers) > 3 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{{{numbers[0]}..{numbers[-1]}}}"
    return f"{{{','.join(map(str, numbers))}}}"
