"""Fewer items than processes, none at all, and a process that fails alone: all of them end, with the same result."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import few_items
import pytest

from vglm_train.distributed import Ranks

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SCORED = ["retrieval of 2", "captions of 2", "captions of 1", "questions of 2", "reports of 2"]
SECONDS = 20  # a collective that one rank does not join ends after 30 minutes


def launch(folder: Path, world: int) -> list[dict[str, Any]]:
    """What each of `world` processes found."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(HERE), os.environ.get("PYTHONPATH", "")])
    shared = {**os.environ, "PATH": "/nothing", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    shared |= {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, str(HERE / "few_items.py"), str(folder)]
    processes = [
        subprocess.Popen(command, env={**shared, "RANK": str(rank)}, stderr=subprocess.PIPE) for rank in range(world)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=180)
            assert process.returncode == 0, errors.decode()
    finally:
        for process in processes:
            process.kill()
    return [json.loads((folder / str(rank) / "found.json").read_text("utf-8")) for rank in range(world)]


@pytest.fixture(scope="module", params=[pytest.param(2, marks=pytest.mark.slow), 3])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return launch(tmp_path_factory.mktemp("ranks"), request.param)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = os.environ["PATH"]
    os.environ["PATH"] = "/nothing"  # no Java
    try:
        return few_items.run(tmp_path_factory.mktemp("alone"), Ranks())
    finally:
        os.environ["PATH"] = path


@pytest.mark.parametrize("name", SCORED)
def test_fewer_items_than_processes(found: list[dict[str, Any]], alone: dict[str, Any], name: str) -> None:
    assert alone[name]["scores"]
    for rank in found:
        assert rank[name]["scores"] == pytest.approx(alone[name]["scores"], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("retrieval of 0", "of 0 usable pictures"),
        ("captions of 0", "of 0 usable pictures none has a caption in en, zh"),
        ("questions of 0", "nothing of it can be used"),
    ],
)
def test_nothing_to_evaluate(found: list[dict[str, Any]], alone: dict[str, Any], name: str, words: str) -> None:
    for rank in (*found, alone):
        assert rank[name]["error"] == "UserError"
        assert words in rank[name]["text"]


def test_processes_that_read_different_items(found: list[dict[str, Any]]) -> None:
    last = len(found) - 1
    for rank in found:
        for name in ("different items", "different questions"):
            assert rank[name]["error"] == "UserError"
            assert (
                f"process 0 could use 5 validation samples and process {last} 4, not the same ones"
                in (rank[name]["text"])
            )


@pytest.mark.parametrize("name", ["out of memory", "out of memory while matching"])
def test_a_process_that_fails_alone(found: list[dict[str, Any]], name: str) -> None:
    *others, failed = found
    assert failed[name]["error"] == "OutOfMemoryError"
    for rank in others:
        assert rank[name]["error"] == "LostProcess"
        text = f"process {len(others)} of this run failed: OutOfMemoryError: no memory left"
        assert rank[name]["text"] == text, "in one line"


def test_a_mistake_is_everybodys(found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert rank["a mistake"]["error"] == "UserError"
        assert rank["a mistake"]["text"] == "the shard is gone: bring it back."


def test_a_process_that_fails_while_it_generates(found: list[dict[str, Any]]) -> None:
    *others, failed = found
    assert failed["generation fails"]["error"] == "TypeError"
    for rank in others:
        assert rank["generation fails"]["error"] == "LostProcess"


def test_nobody_waits(found: list[dict[str, Any]]) -> None:
    assert all(case["seconds"] < SECONDS for rank in found for case in rank.values())
