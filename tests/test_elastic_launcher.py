"""What `vglm elastic` says before it starts anything; tests/run/test_machines.py starts it."""

import socket
import time

import pytest

from vglm_train import elastic
from vglm_train.elastic import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodes", "3:2", "--meet", "host", "run.yaml"], "--nodes 3:2: give the least and the most number"),
        (["--nodes", "many", "run.yaml"], "--nodes many: give the least and the most number"),
        (["--meet", "host:port", "lavis_stage1"], "--meet host:port: give HOST or HOST:PORT."),
        (["--nodes", "1:2", "run.yaml"], "--meet: with several machines, name one that all of them reach"),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}")
    assert said.count("\n") == 1


def test_words_that_no_run_can_start_with_end_it_before_it_meets_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["nowhere.yaml"], "nowhere.yaml: no such file"),
        (["lavis_stage1", "optim.lrr=1"], "optim.lrr"),
    ):
        assert main(["--meet", "localhost:1", *words]) == 2
        assert message in capsys.readouterr().err


def test_a_place_where_nothing_answers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elastic, "REACH", 0)
    assert main(["--meet", "localhost:1", "lavis_stage1"]) == 2
    *_, said = capsys.readouterr().err.splitlines()
    assert said.startswith("error: --meet localhost:1: nothing answers there (Connection refused); start the")


def test_whoever_waits_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elastic, "FIRST_WORD", 0.05)
    with elastic._waiting("host:1", "mine"):
        time.sleep(0.3)
    said = capsys.readouterr().err
    assert "waits at host:1 for the run with --id mine" in said
    time.sleep(0.6)
    assert not capsys.readouterr().err


def test_nothing_to_train(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--nodes", "1"])
    assert "give the YAML file of a run" in capsys.readouterr().err


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--meeting-point", str(port)]) == 2
    assert capsys.readouterr().err.startswith(f"error: --meeting-point {port}: ")
