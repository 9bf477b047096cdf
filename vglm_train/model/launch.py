"""How Triton's kernels are built, and launched with little work for the host.

At every launch Triton finds out anew which of a kernel's compiled forms its arguments ask for, in Python. That can take
longer than the kernel runs. Here the form is looked up by the few properties that choose it.
"""

import logging
from collections.abc import Callable, Hashable
from functools import cache, wraps
from subprocess import CalledProcessError
from typing import Any, TypeVar

import torch
from torch import Tensor

from vglm_train.log import console

T = TypeVar("T")
UNBUILT = (ImportError, OSError, RuntimeError, CalledProcessError)  # beside those that Triton has for itself
log = logging.getLogger(console.LOGGER)
ALIGNED = 16  # bytes of an address, or a divisor of a number, by which Triton specialises
SMALL = 2**31  # numbers below have 32 bits
_compiled: dict[Hashable, tuple[Any, tuple[Any, ...]]] = {}  # a compiled form, and its constants in the kernel's order


def builds(slower: str) -> Callable[[Callable[[], T]], Callable[[], T | None]]:
    """For a function that imports kernels, tries them and returns them.

    It runs once in a process. Where they cannot be built it gives None, with one warning that begins with `slower`.
    """

    def decorate(make: Callable[[], T]) -> Callable[[], T | None]:
        @cache
        @wraps(make)
        def made() -> T | None:
            try:
                return make()
            except Exception as error:
                if not isinstance(error, UNBUILT) and type(error).__module__.partition(".")[0] != "triton":
                    raise
                log.warning("%s without triton and a C compiler (%s)", slower, error)
                return None

        return made

    return decorate


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """`kernel[grid](*arguments, **constants)` on the GPU of the first argument, a tensor.

    constants: the kernel's `constexpr` parameters, which come last in its signature, and options such as `num_warps`.
    """
    device = arguments[0].device
    if device.index == torch.cuda.current_device():
        _launch(kernel, grid, arguments, constants, device.index)
    else:
        with torch.cuda.device(device):
            _launch(kernel, grid, arguments, constants, device.index)


def _launch(
    kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], constants: dict[str, Any], device: int
) -> None:
    try:
        key = (id(kernel), device, *constants.items(), *[_KINDS[type(x)](x) for x in arguments])
    except KeyError:  # a kind of argument that is not known here, such as a tensor descriptor
        kernel[grid](*arguments, **constants)
        return
    if (found := _compiled.get(key)) is not None:
        compiled, last = found
        compiled[(*grid, 1, 1)[:3]](*arguments, *last)
        return
    compiled = kernel[grid](*arguments, **constants)
    names = kernel.arg_names[len(arguments) :]
    if compiled is not None and all(name in constants for name in names):
        _compiled[key] = compiled, tuple(constants[name] for name in names)


def _of_tensor(x: Tensor) -> Hashable:
    return x.dtype, x.data_ptr() % ALIGNED == 0


def _of_number(x: int) -> Hashable:
    return x == 1, x % ALIGNED == 0, -SMALL <= x < SMALL


def _of_type(x: object) -> Hashable:
    return type(x).__name__


_KINDS: dict[type, Callable[[Any], Hashable]] = {
    Tensor: _of_tensor,
    torch.nn.Parameter: _of_tensor,
    int: _of_number,
    float: _of_type,
    type(None): _of_type,
}
"""What Triton looks at in an argument of each type. A number of 1 is compiled in."""
