"""Weight conversion as a table that can be read both ways, and is strict both ways.

In a pattern `#` stands for a number and `*` for the rest of a name. They are carried over in order.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


class KeyMapError(ValueError):
    """Weights that a table does not fit; the message names every key concerned."""


@dataclass(frozen=True, slots=True)
class KeyRule:
    """Tensors named `sources` there are tensors named `targets` here."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    forward: Callable[..., Sequence[Tensor]]
    backward: Callable[..., Sequence[Tensor]]

    def inverse(self) -> "KeyRule":
        return KeyRule(self.targets, self.sources, self.backward, self.forward)


def rename(source: str, target: str) -> KeyRule:
    """The same tensor under another name."""
    return KeyRule((source,), (target,), _same, _same)


def reshape(source: str, target: str, there: Sequence[int], here: Sequence[int]) -> KeyRule:
    """The same numbers in another shape; one size of each may be -1."""
    return KeyRule((source,), (target,), lambda x: (x.reshape(here),), lambda x: (x.reshape(there),))


def unbatch(source: str, target: str) -> KeyRule:
    """Without the leading axis of size 1."""
    return KeyRule((source,), (target,), lambda x: (x.squeeze(0),), lambda x: (x.unsqueeze(0),))


def join(sources: Sequence[str], target: str) -> KeyRule:
    """Equal parts there, stacked along the first axis here."""
    return KeyRule(tuple(sources), (target,), lambda *parts: (torch.cat(parts),), lambda x: x.chunk(len(sources)))


def join_without_key_bias(query: str, value: str, target: str) -> KeyRule:
    """Biases of queries and values there; here queries, keys and values, zero for keys."""

    def split(x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = x.chunk(3)
        if not k.is_meta and k.any():  # on the meta device there are only shapes
            raise KeyMapError(f"{target}: the bias of the keys is not zero, and the other format has no place for it")
        return q, v

    return KeyRule((query, value), (target,), lambda q, v: (torch.cat((q, torch.zeros_like(q), v)),), split)


class Step(NamedTuple):
    """A rule for one group of names: those it takes from the source and those it gives."""

    rule: KeyRule
    sources: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KeyMap:
    """A table of rules.

    `ignored`: names there that mean nothing here, and are lost. `copies`: name there -> the name there that it
    repeats; dropped on the way in, written again on the way out.
    """

    rules: tuple[KeyRule, ...]
    ignored: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    write_copies: bool = False

    def inverse(self) -> "KeyMap":
        """The way back. What was ignored stays lost."""
        assert not self.write_copies, "this is the inverse already"
        return KeyMap(tuple(rule.inverse() for rule in self.rules), (), self.copies, True)

    def apply(self, weights: Weights) -> dict[str, Tensor]:
        """Converted weights. Raises KeyMapError naming keys without a rule, without their partners, or colliding."""
        result: dict[str, Tensor] = {}
        for rule, sources, targets in self.steps(weights):
            result.update(zip(targets, rule.forward(*(weights[part] for part in sources)), strict=True))
        return result | {copy: result[original] for copy, original in self.repeated(result).items()}

    def steps(self, keys: Iterable[str]) -> list[Step]:
        """What is to be done with tensors of these names: each rule once for every group of names that it fits.

        Raises KeyMapError as `apply` does.
        """
        steps: list[Step] = []
        left, problems = {key for key in keys if not self.dropped(key)}, []
        taken: set[str] = set()
        for rule in self.rules:
            for wildcards in _wildcards(rule, left):
                sources = tuple(_fill(source, wildcards) for source in rule.sources)
                targets = tuple(_fill(target, wildcards) for target in rule.targets)
                absent = [source for source in sources if source not in left]
                if absent:
                    present = ", ".join(source for source in sources if source not in absent)
                    problems.append(f"missing beside {present}: {', '.join(absent)}")
                else:
                    steps.append(Step(rule, sources, targets))
                    problems += [f"two keys become {name}" for name in targets if name in taken]
                    taken.update(targets)
                left -= set(sources)
        if left:
            problems.append(f"unexpected: {', '.join(sorted(left))}")
        if problems:
            raise KeyMapError("; ".join(problems))
        return steps

    def repeated(self, names: Iterable[str]) -> dict[str, str]:
        """Of the way back: names that are written once more -> the name among `names` that they repeat."""
        present = set(names) if self.write_copies else set()
        return {copy: original for copy, original in self.copies.items() if original in present}

    def dropped(self, key: str) -> bool:
        """Whether the table loses this name, on purpose."""
        if any(_regex(pattern).fullmatch(key) for pattern in self.ignored):
            return True
        return not self.write_copies and key in self.copies


def mismatches(table: KeyMap, content: Weights, state: Weights) -> list[str]:
    """All that keeps `content`, converted one tensor at a time, from being exactly `state`: a line each, under the
    names of the file. Only shapes are looked at, so `content` may be on the meta device.
    """
    weights: dict[str, Tensor] = {}
    inverse, problems = table.inverse(), []
    for key, tensor in content.items():
        try:
            converted = table.apply({key: tensor})
        except KeyMapError as error:
            problems.append(str(error) if key in str(error) else f"{key}: {error}")
            continue
        problems += [f"unexpected: {key}" for name in converted if name not in state]
        weights |= converted
    missing = [_name_in_file(inverse, name, state[name]) for name in state if name not in weights]
    if missing := [name for name in missing if name not in content]:
        problems.append(f"missing: {', '.join(missing)}")
    for name in (name for name in state if name in weights and weights[name].shape != state[name].shape):
        key = _name_in_file(inverse, name, state[name])
        problems.append(f"{key} is {list(weights[name].shape)}, the model has {list(state[name].shape)}")
    return problems


def _name_in_file(inverse: KeyMap, name: str, tensor: Tensor) -> str:
    """What the file calls a tensor of ours; our own name where it has none for it."""
    try:
        (key,) = inverse.apply({name: torch.empty(tensor.shape, device="meta")})
    except KeyMapError:
        return name
    return key


def _same(x: Tensor) -> Sequence[Tensor]:
    return (x,)


def _wildcards(rule: KeyRule, keys: Iterable[str]) -> list[tuple[str, ...]]:
    """What `#` and `*` stand for in each group of keys that any source of the rule matches, in order."""
    return sorted(
        {match.groups() for key in keys for source in rule.sources if (match := _regex(source).fullmatch(key))}
    )


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)"))


def _fill(pattern: str, wildcards: Sequence[str]) -> str:
    parts = iter(wildcards)
    return re.sub(r"[#*]", lambda _: next(parts), pattern)
