"""These tests run on the CPU, also where there is a GPU; those that need one start a process for it."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def on_the_cpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", "cpu")
        yield
