"""Fixtures shared by all tests."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ../shared beside the project: reference fixtures and real data that are not part of it."""
    if not SHARED.is_dir():
        pytest.skip("../shared is not there: tests on reference fixtures and real photos did not run")
    return SHARED
