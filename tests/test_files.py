"""Files are whole or absent: whoever dies while writing, however many write at once, with and without locks."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
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


def test_it_needs_nothing_that_windows_lacks() -> None:
    lacking = "import sys\nfor name in ('fcntl', 'resource', 'pwd', 'grp'): sys.modules[name] = None\n"
    command = [sys.executable, "-c", lacking + "import vglm_train.folders"]
    subprocess.run(command, cwd=Path(files.__file__).parents[1], check=True)


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


@pytest.mark.parametrize("has_pread", [True, False])
def test_threads_read_at_their_own_offsets(tmp_path, monkeypatch, has_pread):
    """Also where the system has no pread, and a descriptor has one position for all threads."""
    if not has_pread:
        monkeypatch.delattr(os, "pread")
    content = bytes(range(256)) * 64
    (tmp_path / "file").write_bytes(content)
    descriptor = files.open_binary(tmp_path / "file")
    try:
        offsets = [7 * number % len(content) for number in range(2000)]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda offset: files.read_at(descriptor, 40, offset), offsets))
        assert found == [content[offset : offset + 40] for offset in offsets]
        assert files.read_at(descriptor, 9, len(content) - 3) == content[-3:]
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("system", "platform", "environment", "expected"),
    [
        ("posix", "linux", {}, "home/.cache/vglm_train"),
        ("posix", "linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/vglm_train"),
        ("posix", "darwin", {}, "home/Library/Caches/vglm_train"),
        ("nt", "win32", {"LOCALAPPDATA": "/local"}, "/local/vglm_train"),
        ("posix", "linux", {"VGLM_CACHE": "/own", "XDG_CACHE_HOME": "/xdg"}, "/own"),
        ("posix", "linux", {"VGLM_CACHE": "~/own"}, "home/own"),
    ],
)
def test_the_cache_folder_is_the_systems(tmp_path, monkeypatch, system, platform, environment, expected):
    for name in ("VGLM_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**environment, "HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(files, "os", SimpleNamespace(name=system, environ=os.environ))
    monkeypatch.setattr(files.sys, "platform", platform)
    assert files.user_cache() == tmp_path / expected


@pytest.mark.parametrize("slow", [1.0, -1.0])
def test_states_of_many_files_come_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: float) -> None:
    """One by one, and side by side; what cannot be had is an item's error."""
    monkeypatch.setattr(files, "_SLOW", slow)
    monkeypatch.setattr(files, "_ASKED", 3)
    monkeypatch.setattr(files, "_ASIDE", 2)
    for size in range(20):
        if size != 7:
            (tmp_path / str(size)).write_bytes(bytes(size))
    asked = iter([(tmp_path / str(size), size) for size in range(20)])
    found = list(files.file_states(asked))
    assert [item for item, _ in found] == list(range(20))
    assert isinstance(found[7][1], FileNotFoundError)
    assert [state.st_size for size, state in found if size != 7] == [size for size in range(20) if size != 7]
    assert list(files.file_states([])) == []
