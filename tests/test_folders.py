"""Folders are whole or absent; where they cannot be written, one message has option, path, reason and remedy."""

import os
import sys
from importlib import import_module
from pathlib import Path

import crash
import pytest

from vglm_train import files, folders
from vglm_train.checkpoint.__main__ import main as checkpoint
from vglm_train.config.data import Cache
from vglm_train.data.remote.cache import ShardCache
from vglm_train.errors import UserError
from vglm_train.files import temporary_of
from vglm_train.folders import check_folder, exchange, make_folder, recover, replace_folder, replace_path, tidy
from vglm_train.report.__main__ import main as report

SYSTEM = Path("/proc/nothing/can/be/here")
system = pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc, where not even root may write")


def test_made_with_its_parents(tmp_path: Path) -> None:
    check_folder("--out", tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    make_folder("--out", tmp_path / "a" / "b")
    make_folder("--out", tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("check", [check_folder, make_folder])
def test_a_file_where_a_folder_should_be(check, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        with pytest.raises(UserError) as refused:
            check(f"run.folder {folder}", folder)
        said = f"run.folder {folder}: {tmp_path / 'file'} is no folder, and one is needed there. Give another path."
        assert str(refused.value) == said


@system
@pytest.mark.parametrize("check", [check_folder, make_folder])
def test_where_nobody_may_write(check) -> None:
    with pytest.raises(UserError) as refused:
        check(f"--out {SYSTEM}/x", SYSTEM)
    assert str(refused.value).startswith(f"--out {SYSTEM}/x: nothing can be written in /proc (")
    assert str(refused.value).endswith("). Make it writable, or give another path.")


@system
@pytest.mark.parametrize(
    "words",
    [
        "filter ! --min-width 9 --out @", "stats ! --out @", "convert ! --format jsonl --out @", "dedupe ! --out @",
        "pack_shards ! --out @", "vocabulary ! --out @", "chatglm_tokenizer ! --out @", "small_language ! --out @",
        "examples.marks.make_data --out @", "preview ! --out @.html", "filter ! --min-width 9 --out ok --dropped @",
    ],
)  # fmt: skip
def test_data_tools(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, *rest = words.split()
    records = tmp_path / "records.jsonl"
    records.write_text('{"image": "a.png", "captions": {"en": ["a"]}, "caption": "a"}\n')
    (tmp_path / "a.png").write_bytes(b"")
    given = [str(records) if word == "!" else word.replace("@", f"{SYSTEM}/x") for word in rest]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [name, *given])
    with pytest.raises(UserError) as refused:
        import_module(name if "." in name else f"data_tools.{name}.__main__").main()
    said = f"--{given[-2].removeprefix('--')} {given[-1]}: nothing can be written in /proc"
    assert str(refused.value).startswith(said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "records.jsonl"]


@system
def test_features_and_cache(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^data\.cache\.folder {SYSTEM}: nothing can be written in /proc "):
        ShardCache(Cache(folder=str(SYSTEM))).begin()


@system
def test_report_and_checkpoint(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert checkpoint(["import", "x", "--out", "/proc/x"]) == 2
    assert "--out /proc/x: nothing can be written in /proc (" in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2.0}\n')
    assert report([str(tmp_path), "--out", str(SYSTEM)]) == 2
    assert f"--out {SYSTEM}: nothing can be written in /proc (" in capsys.readouterr().err


OLD, NEW = {"a": b"old", "below/b": b"old"}, {"a": b"new", "c": b"new"}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def write(folder: Path) -> None:
    with replace_folder(folder) as new:
        fill(new, NEW)


def two_renames(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where no two names can be exchanged."""
    monkeypatch.setattr(folders, "exchange", lambda *_: False)


def test_a_new_one_and_one_that_replaces(tmp_path: Path) -> None:
    for _ in range(2):
        write(tmp_path / "x" / "made")
        assert crash.content(tmp_path / "x" / "made") == NEW
        assert names(tmp_path / "x") == ["made"]


def test_what_need_not_survive_a_power_cut_does_not_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with files.replace_file(tmp_path / "a", durable=False), replace_folder(tmp_path / "b", durable=False) as new:
        (new / "c").touch()
    assert synced == []
    with files.replace_file(tmp_path / "a"), replace_folder(tmp_path / "b") as new:
        (new / "c").touch()
    assert len(synced) == 2 + 3


def test_an_error_leaves_the_old_one(tmp_path: Path) -> None:
    def fail() -> None:
        with replace_folder(tmp_path / "made") as new:
            fill(new, NEW)
            raise ZeroDivisionError

    fill(tmp_path / "made", OLD)
    with pytest.raises(ZeroDivisionError):
        fail()
    assert crash.content(tmp_path / "made") == OLD
    assert names(tmp_path) == ["made"]


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_two_names_are_exchanged_here(tmp_path: Path) -> None:
    """Else the other tests show less than they say."""
    fill(tmp_path / "a", OLD)
    fill(tmp_path / "b", NEW)
    assert exchange(tmp_path / "a", tmp_path / "b")
    assert crash.content(tmp_path / "b") == OLD
    assert not exchange(tmp_path / "a", tmp_path / "none")


@pytest.mark.parametrize("way", ["exchange", "two renames"])
@pytest.mark.parametrize("old", ["nothing", "folder", "file"])
@pytest.mark.parametrize("new", ["folder", "file"])
def test_killed_between_any_two_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, old: str, new: str
) -> None:
    target = tmp_path / "made"
    if way == "two renames":
        two_renames(monkeypatch)

    def prepare() -> None:
        folders._empty(tmp_path)
        if old == "folder":
            fill(target, OLD)
        elif old == "file":
            target.write_bytes(b"old")

    def work() -> None:
        with replace_path(target) as path:
            if new == "file":
                path.write_bytes(b"new")
            else:
                fill(path, NEW)

    before: dict[str, object] = {"nothing": None, "folder": OLD, "file": b"old"}
    wanted, gaps, moments = NEW if new == "folder" else b"new", 0, 0
    for _ in crash.everywhere(work, prepare):
        gaps += old != "nothing" and not target.exists()
        moments += 1
        recover(target)
        found = crash.content(target) if target.exists() else None
        assert found in (before[old], wanted)
        work()
        assert crash.content(target) == wanted
        assert names(tmp_path) == ["made"]
    assert moments >= 8
    assert (gaps > 0) == (way == "two renames" and old != "nothing" and "folder" in (old, new))


@pytest.mark.parametrize("locks", [True, False])
def test_leftovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: bool) -> None:
    """What lives is never touched; what is left goes, unless nothing tells."""
    if not locks:
        monkeypatch.setattr(files, "fcntl", None)
    fill(tmp_path / "made.tmp-0", {"made/a": b"", "made.lock": b""})
    fill(tmp_path / "made.tmp-1", {"made/a": b""})
    (tmp_path / "made.tmp-2").write_text("")
    with replace_folder(tmp_path / "made") as first:
        fill(first, OLD)
        write(tmp_path / "made")
        assert crash.content(tmp_path / "made") == NEW
        tidy(tmp_path)
        assert crash.content(first) == OLD
    assert crash.content(tmp_path / "made") == OLD
    assert names(tmp_path) == (["made"] if locks else ["made", "made.tmp-0", "made.tmp-2"])


def test_tidy_leaves_the_only_folder_there_is(tmp_path: Path) -> None:
    fill(tmp_path / "made.tmp-old", OLD)
    fill(tmp_path / "made.tmp-0", {"made/a": b""})
    tidy(tmp_path)
    assert names(tmp_path) == ["made.tmp-old"]
    recover(tmp_path / "made")
    assert crash.content(tmp_path / "made") == OLD


def test_a_reader_between_the_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds the old folder, and the writer is not disturbed."""
    two_renames(monkeypatch)
    target, rename, read = tmp_path / "made", os.rename, []

    def renamed(one: Path, other: Path) -> None:
        rename(one, other)
        if other == temporary_of(target, "old") and len(read) < 2:
            recover(target)
            read.append(crash.content(target))

    monkeypatch.setattr(os, "rename", renamed)
    fill(target, OLD)
    write(target)
    assert read == [OLD, OLD]
    assert crash.content(target) == NEW
    assert names(tmp_path) == ["made"]


def test_a_folder_that_cannot_be_renamed_back_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "made.tmp-old", OLD)

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(UserError, match=r"made\.tmp-old and cannot be renamed \(Read-only .*\)\. Rename it to made\."):
        recover(tmp_path / "made")


def test_a_rename_that_is_refused_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_renames(monkeypatch)
    target, rename = tmp_path / "made", os.rename

    def refused(one: Path, other: Path) -> None:
        if other == target and one != temporary_of(target, "old"):
            raise OSError(13, "Permission denied")
        rename(one, other)

    fill(target, OLD)
    monkeypatch.setattr(os, "rename", refused)
    with pytest.raises(OSError, match="Permission denied"):
        write(target)
    assert crash.content(target) == OLD
    assert names(tmp_path) == ["made"]


@pytest.mark.parametrize("way", ["exchange", "two renames"])
def test_many_processes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """A whole folder stands there in the end, one of theirs, and nothing is left."""
    if way == "two renames":
        two_renames(monkeypatch)
    target = tmp_path / "made"

    def work(number: int) -> None:
        for _ in range(10):
            with replace_folder(target) as new:
                fill(new, {str(name): bytes([number]) for name in range(5)})

    processes = [os.fork() or os._exit(crash.run(lambda n=number: work(n))) for number in range(3)]
    done = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    recover(target)
    found = crash.content(target)
    assert isinstance(found, dict)
    assert len(found) == 5
    assert len(set(found.values())) == 1
    assert way == "two renames" or done == [0] * 3
    assert way == "two renames" or names(tmp_path) == ["made"]
