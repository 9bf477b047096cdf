"""Weight conversion as a table that can be read both ways, and is strict both ways.

In a pattern `#` stands for a number and `*` for the rest of a name. They are carried over in order.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


class KeyMapError(ValueError):
    """Weights that a table does not fit; the message names every key concerned."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Tensors named `sources` there are tensors named `targets` here."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    forward: Callable[..., Sequence[Tensor]]
    backward: Callable[..., Sequence[Tensor]]

    def inverse(self) -> "Rule":
        return Rule(self.targets, self.sources, self.backward, self.forward)


def rename(source: str, target: str) -> Rule:
    """The same tensor under another name."""
    return Rule((source,), (target,), _same, _same)


def reshape(source: str, target: str, there: Sequence[int], here: Sequence[int]) -> Rule:
    """The same numbers in another shape; one size of each may be -1."""
    return Rule((source,), (target,), lambda x: (x.reshape(here),), lambda x: (x.reshape(there),))


def unbatch(source: str, target: str) -> Rule:
    """Without the leading axis of size 1."""
    return Rule((source,), (target,), lambda x: (x.squeeze(0),), lambda x: (x.unsqueeze(0),))


def join(sources: Sequence[str], target: str) -> Rule:
    """Equal parts there, stacked along the first axis here."""
    return Rule(tuple(sources), (target,), lambda *parts: (torch.cat(parts),), lambda x: x.chunk(len(sources)))


def join_without_key_bias(query: str, value: str, target: str) -> Rule:
    """Biases of queries and values there; here queries, keys and values, zero for keys."""

    def split(x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = x.chunk(3)
        if k.any():
            raise KeyMapError(f"{target}: the bias of the keys is not zero, and the other format has no place for it")
        return q, v

    return Rule((query, value), (target,), lambda q, v: (torch.cat((q, torch.zeros_like(q), v)),), split)


@dataclass(frozen=True, slots=True)
class KeyMap:
    """A table of rules.

    `ignored`: names there that mean nothing here, and are lost. `copies`: name there -> the name there that it
    repeats; dropped on the way in, written again on the way out.
    """

    rules: tuple[Rule, ...]
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
        left, problems = {key for key in weights if not self._dropped(key)}, []
        for rule in self.rules:
            for place in _places(rule, left):
                parts = [_fill(source, place) for source in rule.sources]
                absent = [part for part in parts if part not in left]
                if absent:
                    present = ", ".join(part for part in parts if part not in absent)
                    problems.append(f"missing beside {present}: {', '.join(absent)}")
                    left -= set(parts)
                    continue
                left -= set(parts)
                for target, tensor in zip(rule.targets, rule.forward(*(weights[part] for part in parts)), strict=True):
                    name = _fill(target, place)
                    if name in result:
                        problems.append(f"two keys become {name}")
                    result[name] = tensor
        if left:
            problems.append(f"unexpected: {', '.join(sorted(left))}")
        if problems:
            raise KeyMapError("; ".join(problems))
        if self.write_copies:
            result |= {copy: result[original] for copy, original in self.copies.items() if original in result}
        return result

    def _dropped(self, key: str) -> bool:
        if any(_regex(pattern).fullmatch(key) for pattern in self.ignored):
            return True
        return not self.write_copies and key in self.copies


def _same(x: Tensor) -> Sequence[Tensor]:
    return (x,)


def _places(rule: Rule, keys: Iterable[str]) -> list[tuple[str, ...]]:
    """What `#` and `*` stand for in each group of keys that any source of the rule matches, in order."""
    found = {match.groups() for key in keys for source in rule.sources if (match := _regex(source).fullmatch(key))}
    return sorted(found)


def _regex(pattern: str) -> re.Pattern:
    return re.compile(re.escape(pattern).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)"))


def _fill(pattern: str, place: Sequence[str]) -> str:
    parts = iter(place)
    return re.sub(r"[#*]", lambda _: next(parts), pattern)
