"""The command `vglm`."""

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module

import pytest

from vglm_train import __version__
from vglm_train.__main__ import COMMANDS, main
from vglm_train.data.__main__ import commands


def status_of(command: Callable[[list[str]], int], words: list[str]) -> object:
    """What the process would end with: argparse ends it, other commands return."""
    try:
        return command(words)
    except SystemExit as end:
        return end.code


def test_the_overview_names_every_command(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_how_it_is_called(name, capsys):
    assert status_of(main, [name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: vglm {name} ")


@pytest.mark.parametrize("name", COMMANDS)
def test_python_m_is_named_where_it_was_called_so(name, capsys):
    assert status_of(import_module(COMMANDS[name][0]).main, ["--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m {COMMANDS[name][0].removesuffix('.__main__')} ")


def test_a_command_that_does_not_exist(capsys):
    assert main(["tchat"]) == 2
    assert "no command 'tchat'" in capsys.readouterr().err


def test_the_overview_imports_no_command():
    code = "import sys, vglm_train.__main__ as m; m.main([]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vglm_train {__version__}\n"


def test_the_data_commands_are_listed_with_what_they_do(capsys):
    assert main(["data"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text and what in text for name, what in commands().items())
    assert {"convert", "pack_shards", "check_table"} <= commands().keys()


@pytest.mark.parametrize("name", commands())
def test_a_data_command_says_how_it_is_called(name, capsys):
    assert status_of(main, ["data", name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: vglm data {name} ")


def test_a_data_command_that_does_not_exist(capsys):
    assert main(["data", "pack"]) == 2
    assert "the commands of vglm data are caption, " in capsys.readouterr().err
