"""Files are whole or absent: whoever dies while writing, however many write at once, with and without locks."""

import json
import os
from pathlib import Path
from typing import Any

import crash
import pytest

from vglm_train import files
from vglm_train.errors import UserError
from vglm_train.files import is_temporary, replace_file, sha256, write_json, write_text

needs_locks = pytest.mark.skipif(files.fcntl is None, reason="no file locks on this system")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_error_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_text(file, "old")

    def fail() -> None:
        with replace_file(file) as out:
            out.write(b"new")
            assert names(tmp_path) == ["a", "a.tmp-0"]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert file.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_what_is_written(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"名": 1})
    assert (tmp_path / "a").read_bytes() == '{\n "名": 1\n}\n'.encode()
    write_text(tmp_path / "a", "页")
    assert (tmp_path / "a").read_text("utf-8") == "页"
    (tmp_path / "other").write_text("")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert sha256(tmp_path / "other").startswith("e3b0c44298fc1c14")


def test_a_device_is_not_written_over(tmp_path: Path) -> None:
    device = tmp_path / "device"
    os.mkfifo(device)
    with pytest.raises(UserError, match="no ordinary file"), replace_file(device):
        pass
    assert device.is_fifo()
    with pytest.raises(UserError, match="no ordinary file"), replace_file(tmp_path):
        pass


@needs_locks
def test_two_who_write_at_once_do_not_meet(tmp_path: Path) -> None:
    file = tmp_path / "a"
    with replace_file(file) as first:
        first.write(b"fir")
        with replace_file(file) as second:
            assert names(tmp_path) == ["a.tmp-0", "a.tmp-1"]
            second.write(b"second")
        assert file.read_bytes() == b"second"
        with replace_file(file) as third:
            third.write(b"third")
        first.write(b"st")
    assert file.read_bytes() == b"first"
    assert names(tmp_path) == ["a"]


@needs_locks
def test_what_killed_processes_left_goes_and_what_lives_stays(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"a.tmp-{number}").write_text("a longer text than the next one")
    (tmp_path / "b.tmp-0").write_text("another file's")
    with replace_file(tmp_path / "a") as first:
        assert names(tmp_path) == ["a.tmp-0", "b.tmp-0"]
        first.write(b"1")
        write_text(tmp_path / "a", "2")
    assert (tmp_path / "a").read_text() == "1"
    assert names(tmp_path) == ["a", "b.tmp-0"]


def write(folder: Path) -> None:
    write_text(folder / "a", "new\n" * 1000)


def without(monkeypatch: pytest.MonkeyPatch, locks: str) -> None:
    """As on Windows, or on a file system that knows no locks."""
    if locks == "no fcntl":
        monkeypatch.setattr(files, "fcntl", None)
    elif locks == "refused":

        def refuse(*_: Any) -> None:
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(files.fcntl, "flock", refuse)


@pytest.mark.parametrize("locks", ["", "no fcntl", "refused"])
def test_killed_between_any_two_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: str) -> None:
    without(monkeypatch, locks)

    def prepare() -> None:
        for path in tmp_path.iterdir():
            path.unlink()
        (tmp_path / "a").write_text("old")

    states = []
    for _ in crash.everywhere(lambda: write(tmp_path), prepare):
        assert (tmp_path / "a").read_text() in ("old", "new\n" * 1000)
        states.append((tmp_path / "a").read_text() == "old")
        write(tmp_path)
        assert (tmp_path / "a").read_text() == "new\n" * 1000
        assert [name for name in names(tmp_path) if not is_temporary(Path(name))] == ["a"]
        assert locks or names(tmp_path) == ["a"]
    assert states == sorted(states, reverse=True)
    assert len(states) >= 4
    assert set(states) == {True, False}


@pytest.mark.parametrize("locks", ["no fcntl", "refused"])
def test_two_who_write_at_once_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: str) -> None:
    without(monkeypatch, locks)
    with replace_file(tmp_path / "a") as first, replace_file(tmp_path / "a") as second:
        first.write(b"1")
        second.write(b"2")
    assert (tmp_path / "a").read_text() == "1"
    assert names(tmp_path) == ["a"]


def test_many_processes_at_once(tmp_path: Path) -> None:
    """Each reads back a whole file, its own or another's, and nothing is left."""

    def work(number: int) -> None:
        for _ in range(30):
            write_json(tmp_path / "a", [number] * 200)
            found = json.loads((tmp_path / "a").read_text())
            assert found == found[:1] * 200

    processes = [os.fork() or os._exit(crash.run(lambda n=number: work(n))) for number in range(4)]
    assert [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes] == [0] * 4
    assert names(tmp_path) == ["a"]
