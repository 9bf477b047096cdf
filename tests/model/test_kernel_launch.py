"""Launching a kernel: which arguments share a compiled form, and on a GPU that each gets its own."""

from unittest.mock import patch

import pytest
import torch

from vglm_train.model import launch as launching
from vglm_train.model.launch import builds, launch

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="kernels need a GPU")


class Compiled:
    """A compiled form, which notes how it is launched."""

    def __init__(self, launches: list[tuple[object, ...]]) -> None:
        self.launches = launches

    def __getitem__(self, grid: tuple[int, ...]):
        return lambda *arguments: self.launches.append((grid, *arguments))


class Kernel:
    """As Triton's: launched by its form, it finds out which compiled one that is, and returns it."""

    arg_names = ("x", "width", "eps", "even", "block")

    def __init__(self, *, interpreted: bool = False) -> None:
        self.searched: list[tuple[object, ...]] = []
        self.looked_up: list[tuple[object, ...]] = []
        self.interpreted = interpreted

    def __getitem__(self, grid: tuple[int, ...]):
        def run(*arguments: object, **constants: object) -> Compiled | None:
            self.searched.append((grid, arguments, constants))
            return None if self.interpreted else Compiled(self.looked_up)

        return run


@pytest.fixture(autouse=True)
def nothing_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "_compiled", {})


def on_cpu(kernel: Kernel, *arguments: object, block: int = 8) -> None:
    with patch.object(torch.cuda, "current_device", lambda: None):  # the index of the CPU
        launch(kernel, (3, 2), *arguments, block=block, even=True, num_warps=4)


def times_searched(kernel: Kernel, *calls: tuple[torch.Tensor, int, float | None, int]) -> int:
    for *arguments, block in calls:
        on_cpu(kernel, *arguments, block=block)
    return len(kernel.searched)


X = torch.zeros(64)


def test_the_same_kinds_of_arguments_are_searched_for_once() -> None:
    kernel, other = Kernel(), torch.ones(32)
    assert times_searched(kernel, (X, 48, 0.5, 8), (other, 32, 0.25, 8), (other[4:], 16, 0.1, 8)) == 1
    # the second launch has the arguments as they are now, and the constants where the kernel has them
    assert kernel.looked_up[0] == ((3, 2, 1), other, 32, 0.25, True, 8)
    assert len(kernel.looked_up) == 2


@pytest.mark.parametrize(
    "second",
    [
        (X[1:], 48, 0.5, 8),  # an address that is not aligned
        (X.half(), 48, 0.5, 8),
        (X, 47, 0.5, 8),  # not divisible
        (X, 1, 0.5, 8),  # compiled in
        (X, 2**40, 0.5, 8),  # of 64 bits
        (X, 48, None, 8),
        (X, 48, 0.5, 16),  # another constant
    ],
)
def test_another_kind_is_searched_for(second: tuple[torch.Tensor, int, float | None, int]) -> None:
    assert times_searched(Kernel(), (X, 48, 0.5, 8), second, second) == 2


def test_two_kernels_are_not_mixed_up() -> None:
    first, second = Kernel(), Kernel()
    assert times_searched(first, (X, 48, 0.5, 8)) == times_searched(second, (X, 48, 0.5, 8)) == 1


def test_what_cannot_be_looked_up_is_launched_by_triton() -> None:
    interpreted = Kernel(interpreted=True)
    assert times_searched(interpreted, (X, 48, 0.5, 8), (X, 48, 0.5, 8)) == 2
    kernel = Kernel()
    for _ in range(2):
        on_cpu(kernel, X, object(), 0.5)
    assert len(kernel.searched) == 2
    assert not kernel.looked_up


def test_kernels_that_cannot_be_built_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    tried = []

    @builds("this runs slower")
    def kernels() -> int:
        tried.append(True)
        raise RuntimeError("no C compiler")

    with caplog.at_level("WARNING"):
        assert kernels() is kernels() is None
    assert len(tried) == 1
    assert [record.message for record in caplog.records] == [
        "this runs slower without triton and a C compiler (no C compiler)"
    ]


def test_errors_of_triton_itself_are_among_them_and_mistakes_are_not() -> None:
    own = type("CompilationError", (Exception,), {"__module__": "triton.compiler.errors"})

    @builds("slower")
    def unbuilt() -> int:
        raise own("ptxas")

    @builds("slower")
    def mistaken() -> int:
        raise TypeError("an argument too many")

    assert unbuilt() is None
    with pytest.raises(TypeError):
        mistaken()


@gpu
def test_on_a_gpu_each_launch_computes_its_own_arguments() -> None:
    from vglm_train.model.language.hf import fused_triton

    for width in (16, 17, 1, 4096, 4096, 17):
        for dtype in (torch.bfloat16, torch.float16):
            for start in (0, 1):
                x = torch.randn(5 * width + start, device="cuda", dtype=dtype)[start:].view(5, width)
                weight = torch.randn(width, device="cuda", dtype=dtype)
                found, _ = fused_triton.norm(x, weight, 1e-6)
                wide = x.double()
                wanted = wide * (wide.square().mean(1, keepdim=True) + 1e-6).rsqrt() * weight.double()
                torch.testing.assert_close(found.double(), wanted, rtol=0.02, atol=0.02)
