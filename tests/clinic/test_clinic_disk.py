"""A step begins only where what it makes has room."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from examples.clinic.make_data import TABLE
from vglm_train.clinic import __main__ as clinic
from vglm_train.clinic.disk import LEFT, check_disk, taken
from vglm_train.clinic.plan import Options, Step
from vglm_train.clinic.runner import Stopped
from vglm_train.clinic.state import State
from vglm_train.errors import UserError

MIB = 2**20


@pytest.fixture(autouse=True)
def nearly_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 MiB are free beside what stays so."""
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=LEFT + 10 * MIB))


def test_what_has_no_room_is_refused(tmp_path: Path) -> None:
    check_disk(tmp_path, 10 * MIB, "the checkpoints", tmp_path / "run")
    with pytest.raises(UserError, match=r"the checkpoints may take 2.0 GiB, and 0.3 GiB are free there; make room"):
        check_disk(tmp_path, 2**31, "the checkpoints", tmp_path / "run")


def test_what_an_earlier_start_left_counts_as_room(tmp_path: Path) -> None:
    made = tmp_path / "run" / "checkpoints"
    (made / "step4").mkdir(parents=True)
    (made / "step4" / "state").write_bytes(bytes(range(256)) * 4096 * 8)  # 8 MiB
    assert 8 * MIB <= taken(made) < 9 * MIB
    check_disk(tmp_path, 18 * MIB, "the checkpoints", made)
    with pytest.raises(UserError, match=r"are free there, beside 0.0 GiB of an earlier start; make room"):
        check_disk(tmp_path, 20 * MIB, "the checkpoints", made)


def test_the_next_checkpoint_needs_room_beside_those_of_an_earlier_start(tmp_path: Path) -> None:
    """It is written before an old one is deleted, however many are there."""
    made = tmp_path / "run" / "checkpoints"
    made.mkdir(parents=True)
    (made / "state").write_bytes(bytes(range(256)) * 4096 * 40)  # 40 MiB
    check_disk(tmp_path, 30 * MIB, "the checkpoints", made, anew=10 * MIB)
    with pytest.raises(UserError, match="the checkpoints may take"):
        check_disk(tmp_path, 33 * MIB, "the checkpoints", made, anew=11 * MIB)


def test_training_asks_for_room_for_one_more_checkpoint(
    hospital: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float, float]] = []
    chosen = SimpleNamespace(checkpoint=7 * MIB, reason="", tasks=())
    options = Options(hospital, hospital / TABLE, base, tmp_path / "out")
    steps = [Step("recipe", "", ()), Step("train", "", ())]
    monkeypatch.setattr(clinic, "plan", lambda options: steps)
    monkeypatch.setattr(clinic, "run", lambda *_: None)
    monkeypatch.setattr(clinic.Recipe, "read", lambda path: chosen)
    monkeypatch.setattr(clinic, "check_disk", lambda out, needed, what, made, anew=0: asked.append((needed, anew)))
    clinic._steps(options, State(options.out), 0)
    assert asked == [(21 * MIB, 7 * MIB)]


def test_a_conversion_that_was_stopped_goes_on(
    hospital: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pictures fill the disk, and are deleted before it begins anew."""

    def stopped(*_: object) -> None:
        raise Stopped(143)

    def free(mebibytes: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=LEFT + mebibytes * MIB))

    monkeypatch.setattr(clinic, "run", stopped)
    words = [str(hospital), "--reports", TABLE, "--base", str(base), "--out", str(tmp_path / "out")]
    free(100)
    assert clinic.main(words) == 143
    free(1)
    assert clinic.main(words) == 2
    kept = tmp_path / "out" / "data" / "records.pictures" / "0f"
    kept.mkdir(parents=True)
    (kept / "0f.png").write_bytes(bytes(range(256)) * 4096 * 8)
    assert clinic.main(words) == 143
