"""Records on one drive of Windows and pictures on another: they are named in full."""

import json
import ntpath
import os
from pathlib import Path, PureWindowsPath

import pytest
from PIL import Image

from data_tools.common.records import moved, open_inputs, path_from, read_block
from data_tools.convert import __main__ as convert
from data_tools.split import __main__ as split
from data_tools.split.divide import SIDES
from vglm_train.config.data import Source
from vglm_train.data.tables.table import Table


@pytest.fixture(autouse=True)
def drives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pictures` is another drive's, as ntpath has it: no path leads there."""
    relpath, other = os.path.relpath, str(tmp_path / "pictures")

    def between(path: str | Path, start: str | Path) -> str:
        if str(path).startswith(other) != str(start).startswith(other):
            ntpath.relpath("D:\\pictures", "C:\\made")
        return relpath(path, start)

    monkeypatch.setattr(os.path, "relpath", between)


def test_windows_has_no_path_between_drives() -> None:
    with pytest.raises(ValueError, match="mount"):
        ntpath.relpath("D:\\pictures", "C:\\made")
    assert PureWindowsPath("C:/made", "D:/pictures/a.png").as_posix() == "D:/pictures/a.png"


def test_converted_and_split_records_find_their_pictures(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(8):
        Image.new("L", (32, 32), number).save(pictures / f"{number}.png")
    rows = [f"{number}.png,P{number},clear {number}" for number in range(8)]
    (tmp_path / "reports.csv").write_text("\n".join(["image,patient,report", *rows]) + "\n")
    made = tmp_path / "made"
    records = made / "records.jsonl"
    assert convert.main([str(tmp_path / "reports.csv"), "--images", str(pictures), "--out", str(records)]) == 0
    assert split.main([str(records), "--out", str(made / "split")]) == 0
    named = []
    for side in SIDES:
        file = made / "split" / f"{side}.jsonl"
        named += [json.loads(line)["image"] for line in file.read_text("utf-8").splitlines()]
        table = Table(Source(name="t", table=str(file)))
        assert table.index.count("usable") == len(table.index)
    assert sorted(named) == [(pictures / f"{number}.png").resolve().as_posix() for number in range(8)]
    items = [item for block in open_inputs([records], 100, shards=False).blocks for item in read_block(block)]
    assert moved(items[0], made / "cleaned.jsonl")["image"] == (pictures / "0.png").resolve().as_posix()


def test_on_one_drive_a_path_is_relative(tmp_path: Path) -> None:
    assert path_from(tmp_path / "made", tmp_path / "other" / "a.png") == "../other/a.png"
