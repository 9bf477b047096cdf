"""Fixtures shared by all tests."""

import os
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

# Before torch is imported, and for every process that tests start. The models are tiny: a second thread has nothing
# to add, and threads that wait for each other spin, so that several processes on few cores take many times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# torch.compile's cache does not know ATEN_CPU_CAPABILITY: what was built under one crashes under another
CACHE = f"vglm_train_inductor_{os.getuid()}_{os.environ.get('ATEN_CPU_CAPABILITY', 'native')}"
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(tempfile.gettempdir(), CACHE))

# W&B gives its service 30 s to start, which a busy machine that reads it from disk for the first time exceeds
os.environ.setdefault("WANDB_X_SERVICE_WAIT", "300")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell's background jobs ignore Ctrl-C, and so would every command that is started here and stopped by it
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[2] / "shared"


STARTING_RUNS = ("run", "benchmarks")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folders whose single files take a minute come first: else, of two processes, one would end alone with them.

    `make test` gives whole files to whichever process is free (pytest-xdist), in this order.
    """
    tests = Path(__file__).parent
    items.sort(key=lambda item: item.path.relative_to(tests).parts[0] not in STARTING_RUNS)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, dict[str, Any] | None, dict[str, Any] | None]:
    """Half characters in a report, which tests of damaged text put there, would end pytest-xdist with an internal
    error in place of the report."""
    return _whole_characters((yield))


def _whole_characters(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {_whole_characters(key): _whole_characters(each) for key, each in value.items()}
        case list() | tuple():
            return type(value)(map(_whole_characters, value)) if type(value) in (list, tuple) else value
    return value


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ../shared beside the project: reference fixtures and real data that are not part of it."""
    if not SHARED.is_dir():
        pytest.skip("../shared is not there: tests on reference fixtures and real photos did not run")
    return SHARED


@pytest.fixture(scope="module", autouse=True)
def own_environment() -> Iterator[None]:
    """Joining a process group describes it in os.environ: what other tests start must not take it for theirs."""
    with patch.dict(os.environ):
        yield
