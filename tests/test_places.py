"""Where people ask for results to be written and it cannot be: one message with option, path, reason and remedy."""

from importlib import import_module
from pathlib import Path

import pytest

from vglm_train.checkpoint.__main__ import main as checkpoint
from vglm_train.config.data import Cache
from vglm_train.data.remote.cache import ShardCache
from vglm_train.errors import UserError
from vglm_train.places import check_folder, make_folder
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
        "pack_shards ! --out @", "vocabulary ! --out @", "ice_text ! --out @", "small_language ! --out @",
        "demo.marks --out @", "preview ! --out @", "filter ! --min-width 9 --out ok --dropped @",
    ],
)  # fmt: skip
def test_data_tools(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, *rest = words.split()
    records = tmp_path / "records.jsonl"
    records.write_text('{"image": "a.png", "captions": {"en": ["a"]}, "caption": "a"}\n')
    given = [str(records) if word == "!" else f"{SYSTEM}/x" if word == "@" else word for word in rest]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [name, *given])
    with pytest.raises(UserError) as refused:
        import_module(f"data_tools.{name}").main()
    said = f"--{given[-2].removeprefix('--')} {SYSTEM}/x: nothing can be written in /proc"
    assert str(refused.value).startswith(said)
    assert [path.name for path in tmp_path.iterdir()] == ["records.jsonl"]


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
