"""How a step ends: done, done with something found, or crashed."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from vglm_train.clinic.plan import Step
from vglm_train.clinic.runner import Stopped, run
from vglm_train.clinic.state import State
from vglm_train.errors import UserError

HALTS_NUMPY = "import sys\nsys.modules['numpy'] = None\n"
TITLES = ("look", *"bcdefg", "evaluate")
DIES = "import os, sys\nif 'check_table' in sys.argv:\n    os.kill(os.getpid(), {})\n"


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[int]:
    with open(tmp_path / "lock", "w") as file:
        yield file.fileno()


@pytest.fixture
def look(tmp_path: Path) -> Step:
    """A look at a table of one row, whose picture is there."""
    Image.new("L", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "reports.csv").write_text("image,report\na.png,clear\n")
    return Step("look", "look", ("data", "check_table", str(tmp_path / "reports.csv"), "--workers", "2"), tells=True)


def every_process_runs(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python runs this file at each start."""
    (folder / "plant").mkdir()
    (folder / "plant" / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(folder / "plant"), os.environ.get("PYTHONPATH", ""))))


def test_what_was_found_is_no_failure(
    state: State, look: Step, held: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(look, state, 1, TITLES, held)
    assert state.done["look"]["status"] == 0
    assert "found something" not in capsys.readouterr().out
    with open(tmp_path / "reports.csv", "a") as file:
        file.write("missing.png,clear\n")
    state.done.clear()
    run(look, state, 1, TITLES, held)
    assert state.done["look"]["status"] == 1
    assert "it found something, see above" in capsys.readouterr().out


def test_a_crash_is_nothing_that_was_found(
    state: State, look: Step, held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python ends with 1 after a traceback, as check_table does after a finding."""
    every_process_runs(HALTS_NUMPY, tmp_path, monkeypatch)
    with pytest.raises(UserError, match=r"step 1 of 8 \(look\) failed with status 1; it says why above"):
        run(look, state, 1, TITLES, held)
    assert state.done == {}


def test_how_much_is_left(
    state: State, look: Step, held: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is done, how long it took here, also of starts that were stopped, and what comes after."""
    state.finish(Step("a", "a", ()), 3600.0)
    state.spend(look, 600.0)
    run(look, State(tmp_path), 2, ("a", "look", "train"), held)
    told = capsys.readouterr().out
    assert "=== step 2 of 3: look\n1 of 3 steps done, in 1 h 00 min on this machine\n" in told
    assert "this one was begun before, and ran for 10 min then\nafter it: train, the verdict\n" in told
    again = State(tmp_path)
    assert again.spent == {}
    assert 600 < again.seconds("look") < 700
    run(look, again, 2, ("a", "look"), held)
    assert "--- done before, in 11 min" in capsys.readouterr().out


def test_a_start_that_fails_has_taken_its_time(
    state: State, look: Step, held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every_process_runs(HALTS_NUMPY, tmp_path, monkeypatch)
    for _ in range(2):
        before = state.spent.get("look", 0.0)
        with pytest.raises(UserError):
            run(look, state, 1, TITLES, held)
        assert State(tmp_path).spent["look"] > before


def test_a_signal_of_a_crash_is_no_stop(
    state: State, look: Step, held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every_process_runs(DIES.format(11), tmp_path, monkeypatch)
    with pytest.raises(UserError, match=r"step 1 of 8 \(look\) crashed \(Segmentation fault\)"):
        run(look, state, 1, TITLES, held)
    (tmp_path / "plant" / "sitecustomize.py").write_text(DIES.format(15))
    with pytest.raises(Stopped) as stop:
        run(look, state, 1, TITLES, held)
    assert stop.value.status == 143
