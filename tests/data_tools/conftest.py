"""Small made-up data for the data tools."""

import contextlib
import importlib
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from PIL import Image

from data_tools.common.cli import command

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def tool() -> Run:
    """Run `python -m data_tools.NAME ARGUMENTS` as a person does."""

    def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", f"data_tools.{name}", *map(str, arguments)]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)

    return run


@pytest.fixture(scope="session")
def tool_here() -> Run:
    """The same within this process, without the seconds that imports take; not for commands that start workers."""

    def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        out, err, words = io.StringIO(), io.StringIO(), [name, *map(str, arguments)]
        streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
        with streams[0], streams[1], patch.object(sys, "argv", words), pytest.raises(SystemExit) as end:
            command(importlib.import_module(f"data_tools.{name}.__main__").main)
        return subprocess.CompletedProcess(words, int(end.value.code or 0), out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with pictures 0.png to 5.png, each of its own colour."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(6):
        Image.new("RGB", (24, 16), (40 * index, 200, 9)).save(folder / f"{index}.png")
    return folder
