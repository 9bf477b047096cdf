"""What trains, by name: the first rule that matches decides."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from vglm_train.config.tuning import Rule
from vglm_train.config.validation import FieldError
from vglm_train.model.visual_language import VisualLanguageModel

ADAPTERS = {"lora": (".lora_a", ".lora_b"), "prefix": (".prefix_keys", ".prefix_values")}  # ends of names


@dataclass(frozen=True, slots=True)
class Resolved:
    """Whether one parameter trains, how fast, and which rule decided."""

    name: str
    shape: tuple[int, ...]
    trained: bool
    lr: float  # times optim.lr
    rule: str  # the pattern that decided; lora, prefix or vision_blocks; empty: no rule matches, it is frozen


def is_adapter(name: str) -> bool:
    """Whether a parameter was added to the language model by `apply_tuning`."""
    return kind_of(name) is not None


def kind_of(name: str) -> str | None:
    """lora or prefix; None for a parameter of the model itself."""
    return next((kind for kind, ends in ADAPTERS.items() if name.endswith(ends)), None)


def apply_rules(
    model: VisualLanguageModel, rules: Sequence[Rule], vision: Mapping[str, float] | None = None
) -> list[Resolved]:
    """Set `requires_grad` of every parameter and the model's `rates`; the outcome for each, in the model's order.

    vision: trained names of the image encoder -> times optim.lr. They and adapters train whatever the rules say of the
    towers; an adapter takes its learning rate from the first rule that matches it, if that rule trains.
    FieldError for a rule that matches no name or is never reached, and for one that trains what cannot train.
    """
    vision = vision or {}
    parameters = dict(model.named_parameters())
    first = {name: _first(rules, name) for name in parameters}
    _check_reached(rules, list(parameters), set(first.values()))
    resolved = []
    for name, parameter in parameters.items():
        number = first[name]
        line = _resolve(name, tuple(parameter.shape), rules[number] if number is not None else None, vision)
        if line.trained and number is not None and line.rule == rules[number].match:
            _check_trainable(model, name, parameter, rules, number)
        parameter.requires_grad_(line.trained)
        resolved.append(line)
    model.rates = {line.name: line.lr for line in resolved if line.trained and line.lr != 1}
    return resolved


def _resolve(name: str, shape: tuple[int, ...], rule: Rule | None, vision: Mapping[str, float]) -> Resolved:
    if kind := kind_of(name):
        return Resolved(name, shape, True, rule.lr if rule and rule.train else 1.0, kind)
    if name in vision:
        return Resolved(name, shape, True, vision[name], "vision_blocks")
    if rule is None or not rule.train:
        return Resolved(name, shape, False, 0.0, rule.match if rule else "")
    return Resolved(name, shape, True, rule.lr, rule.match)


def table(resolved: Sequence[Resolved]) -> list[str]:
    """Lines for a person. Parameters of the same part with the same outcome share a line."""
    groups: dict[tuple[str, bool, float, str], list[Resolved]] = {}
    for line in resolved:
        groups.setdefault((_part(line.name), line.trained, line.lr, line.rule), []).append(line)
    lines = [f"{'trains':<8}{'lr x':>8}{'weights':>16}  {'names':<40} rule"]
    for (part, trained, lr, rule), members in groups.items():
        names = members[0].name if len(members) == 1 else f"{part}.* ({len(members)})"
        count = sum(math.prod(member.shape) for member in members)
        rate = f"{lr:.3g}" if trained else ""
        lines.append(f"{'yes' if trained else 'no':<8}{rate:>8}{count:>16,}  {names:<40} {rule or 'none fits'}")
    return lines


def _part(name: str) -> str:
    return name.partition(".")[0]


def _first(rules: Sequence[Rule], name: str) -> int | None:
    return next((number for number, rule in enumerate(rules) if fnmatchcase(name, rule.match)), None)


def _check_reached(rules: Sequence[Rule], names: Sequence[str], reached: set[int | None]) -> None:
    for number, rule in enumerate(rules):
        if number in reached:
            continue
        if any(fnmatchcase(name, rule.match) for name in names):
            reason = f"{rule.match!r} is never reached: rules above it fit every name that it fits. Move it up"
        else:
            reason = f"{rule.match!r} fits no parameter; near it: {', '.join(_near(rule.match, names))}"
        raise FieldError(f"tuning.rules.{number}.match", reason=reason)


def _near(pattern: str, names: Sequence[str]) -> list[str]:
    """Names or beginnings of names that a person may have meant."""
    pieces = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}
    wanted = pattern.strip("*.")
    return difflib.get_close_matches(wanted, sorted(pieces), 4, 0.5) or sorted({_part(name) for name in names})


def _check_trainable(
    model: VisualLanguageModel, name: str, parameter: nn.Parameter, rules: Sequence[Rule], number: int
) -> None:
    """FieldError for towers, which compute in their own dtype, the image encoder without gradient."""
    tower = _part(name)
    if tower == "vision":
        advice = "the image encoder trains by tuning.vision_blocks"
    elif tower == "language" and parameter.dtype != torch.float32:
        advice = "a language model that is not fp32 trains by tuning.lora or tuning.prefix"
    else:
        return
    freeze = f"{{match: '{tower}.*', train: false}}"
    reason = f"{rules[number].match!r} would train {name}: {advice}. Put {freeze} above this rule"
    raise FieldError(f"tuning.rules.{number}.match", reason=reason)
