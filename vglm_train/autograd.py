"""torch's autograd functions, called in one place: torch has no types for their `apply`."""

from typing import Any

from torch.autograd import Function


def apply(function: type[Function], *inputs: object) -> Any:
    """What `function.forward` returns for these inputs, on the graph. `None` and other objects pass as they are."""
    return function.apply(*inputs)
