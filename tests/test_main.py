"""The command `vglm`."""

import subprocess
import sys
from importlib import import_module

import pytest

from vglm_train.__main__ import COMMANDS, main


def test_the_overview_names_every_command(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_how_it_is_called(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: vglm {name} ")


@pytest.mark.parametrize("name", COMMANDS)
def test_python_m_is_named_where_it_was_called_so(name, capsys):
    with pytest.raises(SystemExit):
        import_module(COMMANDS[name][0]).main(["--help"])
    assert capsys.readouterr().out.startswith(f"usage: python -m {COMMANDS[name][0].removesuffix('.__main__')} ")


def test_a_command_that_does_not_exist(capsys):
    assert main(["tchat"]) == 2
    assert "no command 'tchat'" in capsys.readouterr().err


def test_the_overview_imports_no_command():
    code = "import sys, vglm_train.__main__ as m; m.main([]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
