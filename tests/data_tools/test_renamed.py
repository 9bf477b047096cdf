"""A command under its former name says the new one."""

from collections.abc import Callable
from subprocess import CompletedProcess

import pytest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ice_text", "data_tools.chatglm_tokenizer"),
        ("demo.run", "examples.demo.run"),
        ("demo.marks", "examples.marks.make_data"),
    ],
)
def test_a_renamed_command_gives_its_new_name(tool: Callable[..., CompletedProcess[str]], old: str, new: str) -> None:
    done = tool(old, "--help")
    assert done.returncode == 2
    assert done.stderr == f"error: data_tools.{old} is called {new} now: python -m {new}\n"
