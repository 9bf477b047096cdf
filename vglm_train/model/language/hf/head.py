"""A transformers model's head on chosen tokens alone.

b rows, s tokens, m targets, d width of the head's input.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def head_on(head: nn.Module, rows: Tensor) -> Iterator[None]:
    """Within it, the head runs only on rows [m] int64 of its flattened input [b,s,d], as one batch [1,m,d].

    A hook, not a call of the head, keeps what the family does before and after its head (softcapping, logit scales and
    multipliers).
    """

    def choose(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].flatten(0, 1).index_select(0, rows)[None], *inputs[1:])

    hook = head.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        hook.remove()
