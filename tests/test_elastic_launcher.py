"""What `vglm elastic` says before it starts anything; tests/run/test_machines.py starts it."""

import socket

import pytest

from vglm_train.elastic import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodes", "3:2", "--meet", "host", "run.yaml"], "--nodes 3:2: give the least and the most number"),
        (["--nodes", "many", "run.yaml"], "--nodes many: give the least and the most number"),
        (["--nodes", "1:2", "run.yaml"], "--meet: with several machines, name one that all of them reach"),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}")
    assert said.count("\n") == 1


def test_nothing_to_train(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--nodes", "1"])
    assert "give the YAML file of a run" in capsys.readouterr().err


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--meeting-point", str(port)]) == 2
    assert capsys.readouterr().err.startswith(f"error: --meeting-point {port}: ")
