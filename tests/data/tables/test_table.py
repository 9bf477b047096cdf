"""A table is a source: its rows come as those of shards do."""

import json
import logging
import pickle
from pathlib import Path

import made_tables
import numpy as np
import pytest
from made_shards import jpeg

from vglm_train.config.data import Fields, Source
from vglm_train.data.record import DamagedSample, parse
from vglm_train.data.shards.reader import ShardReader
from vglm_train.data.tables import table as tables
from vglm_train.data.tables.table import Table
from vglm_train.errors import UserError


def opened(path: Path, **more) -> Table:
    return Table(Source(name="made", table=str(path), **more))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made_tables.pictures(tmp_path, 5)
    return tmp_path


NAMES = [f"images/{n}.jpg" for n in range(5)]


def test_rows_come_as_samples(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(tables, "SHARD", 2)
    table = opened(made_tables.write_json(folder / "t.json", made_tables.visualglm(NAMES)))
    manifest = pickle.loads(pickle.dumps(table.manifest(table.usable())))  # as a spawned worker gets it
    assert [shard.samples for shard in manifest.shards] == [2, 2, 1]
    assert manifest.captions == {"en": 5}
    raw = ShardReader(1).read(manifest.shards[1], 1)
    assert (raw.key, raw.image, raw.extension, raw.more) == ("t row 4", jpeg(3), "jpg", ())
    assert json.loads(raw.json)["turns"] == [
        {"role": "user", "text": "number 3?"},
        {"role": "assistant", "text": "photo 3"},
    ]


def test_several_pictures(folder: Path) -> None:
    row = {"image": NAMES[:3], "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]}
    table = opened(made_tables.write_lines(folder / "t.jsonl", [row]))
    raw = table.read("", 0)
    assert (raw.image, raw.more) == (jpeg(0), (jpeg(1), jpeg(2)))


def test_damage_is_counted_where_it_stands(folder: Path, caplog) -> None:
    rows = made_tables.visualglm(NAMES)
    rows[1]["img"], rows[2]["label"] = "images/gone.jpg", ""
    rows[3]["img"] = None
    with caplog.at_level(logging.INFO):
        table = opened(made_tables.write_json(folder / "t.json", rows))
        assert "check_table" not in caplog.text, "that command opens it too"
        table.log_doubts()
    assert "1 of the first 3 pictures it names are not in" in caplog.text
    assert "of 5 rows some cannot be used: 1 without an answer, 1 without a picture." in caplog.text
    shard, *_ = table.manifest(table.usable()).shards
    assert shard.samples == 4
    for index, cause in ((1, "image"), (2, "caption")):
        with pytest.raises(DamagedSample) as caught:
            shard.read(index)
        assert caught.value.cause == cause
    assert shard.read(3).key == "t row 5"


def test_rows_of_one_language(folder: Path) -> None:
    rows = [{"image": name, "caption": "照片" if n % 2 else "a photo"} for n, name in enumerate(NAMES)]
    table = opened(made_tables.write_csv(folder / "t.csv", rows))
    shard, *_ = table.manifest(table.usable()).shards
    assert shard.languages == {"en": 3, "zh": 2}
    assert [ShardReader(1).nth(shard, n, "zh") for n in range(2)] == [1, 3]


def test_names_without_an_ending(folder: Path) -> None:
    rows = {"annotations": [{"image_id": str(n), "caption": "正常"} for n in range(5)]}
    table = opened(made_tables.write_json(folder / "t.json", rows), images=str(folder / "images"))
    assert table.read("", 4).image == jpeg(4)


def test_coco_captions(folder: Path) -> None:
    images = [{"id": n, "file_name": name} for n, name in enumerate(NAMES)]
    notes = [{"image_id": n % 4, "caption": f"photo {n}"} for n in range(8)]
    table = opened(made_tables.write_json(folder / "t.json", {"images": images, "annotations": notes}))
    assert (table.index.count("usable"), table.index.count("caption")) == (4, 1)
    raw = table.read("", 3)
    assert raw.image == jpeg(3)
    assert parse(raw.json).captions == {"en": ("photo 3", "photo 7")}
    with pytest.raises(DamagedSample, match="no answer"):
        table.read("", 4)


def test_saved_data_set(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"image": [str(folder / name) for name in NAMES], "question": ["q"] * 5, "answer": list("abcde")}
    datasets.disable_progress_bars()
    made = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    made.save_to_disk(str(folder / "saved"))
    table = opened(folder / "saved")
    assert table.read("", 2).image == jpeg(2)
    assert json.loads(table.read("", 2).json)["turns"][1]["text"] == "c"
    datasets.DatasetDict(train=made, test=made.select([3])).save_to_disk(str(folder / "both"))
    both = opened(folder / "both")
    with pytest.raises(UserError, match=r"several splits: train \(5\), test \(1\)"):
        both.usable()
    assert both.usable("test").tolist() == [5]
    assert both.read("", 5).image == jpeg(3)
    with pytest.raises(UserError, match="given as shards"):
        opened(folder / "images")


def test_wrong_folder_suggests_the_right_one(folder: Path) -> None:
    (folder / "lists").mkdir()
    path = made_tables.write_json(folder / "lists" / "t.json", made_tables.visualglm(NAMES))
    with pytest.raises(UserError, match="of the first 5 pictures it names, none is there") as caught:
        opened(path)
    assert f"looked for as {folder / 'lists' / NAMES[0]}; 5 of them are in {folder}: set images: {folder}" in str(
        caught.value
    )
    assert len(opened(path, images=str(folder)).index) == 5
    for name in NAMES:
        (folder / name).unlink()
    with pytest.raises(
        UserError, match=r"set images in the source to the folder .* \(check_table and convert: --images;"
    ):
        opened(path)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "has no rows"),
        ([1, 2], "none of its first 2 rows can be read"),
        (
            [{"img": "images/0.jpg", "label": ""}] * 2,
            "none of its 2 rows can be used: 2 without an answer. The first, row 1: the row has no answer",
        ),
        (
            [{"img": "images/0.jpg", "label": 3}] * 2,
            "2 without an answer. The first, row 1: a caption must be a text: found the number 3",
        ),
    ],
)
def test_nothing_to_use(folder: Path, rows: list, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        opened(made_tables.write_json(folder / "t.json", rows))


def test_index_of_a_large_table_is_kept(folder: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr("vglm_train.data.tables.index.CACHED_FROM", 1)
    path = made_tables.write_json(folder / "t.json", made_tables.visualglm(NAMES))
    first = opened(path).index
    [kept] = (folder / "cache").rglob("*.npz")
    with monkeypatch.context() as patch:
        patch.setattr("vglm_train.data.tables.index.read_row", None)
        assert np.array_equal(opened(path).index.positions, first.positions)
        patch.setattr("vglm_train.data.tables.index.VERSION", 0)  # an index by other rules is not taken
        with pytest.raises(TypeError, match="not callable"):
            opened(path)
    kept.write_bytes(b"broken")
    assert np.array_equal(opened(path).index.contents, first.contents)
    made_tables.write_json(path, made_tables.visualglm(NAMES[:3]))
    assert len(opened(path).index) == 3
    assert len(opened(path, fields=Fields(question="label")).index) == 3
    assert len(list((folder / "cache").rglob("*.npz"))) == 3


def test_lengths_without_reading(folder: Path) -> None:
    rows = made_tables.visualglm(NAMES)
    rows[2]["label"] = "照片" * 100
    rows[3] = {"img": NAMES[3], "prompt": None, "label": "eight by8"}
    shard, *_ = opened(made_tables.write_json(folder / "t.json", rows)).manifest(np.arange(5)).shards
    assert [shard.length(n) for n in range(4)] == [5, 5, 203, 3]  # a token is four letters, or one of other scripts


def test_damaged_rows_have_their_split_too(folder: Path) -> None:
    rows = [{**row, "split": "test" if n % 2 else "train"} for n, row in enumerate(made_tables.visualglm(NAMES))]
    rows[1]["label"] = rows[2]["label"] = None
    table = opened(made_tables.write_json(folder / "t.json", rows))
    assert table.splits() == {"train": 3, "test": 2}
    assert table.usable("test").tolist() == [1, 3]
    assert table.usable("train").tolist() == [0, 2, 4]
    with pytest.raises(UserError, match=r"of several splits: train \(3\), test \(2\)"):
        table.usable()
    with pytest.raises(UserError, match="no rows of split 'val'"):
        table.usable("val")


def test_records_in_two_languages_are_in_both(folder: Path) -> None:
    """As in the index of a shard: the dialogue's language, and those of the captions."""
    turns = [{"role": "user", "text": "one?"}, {"role": "assistant", "text": "two"}]
    rows = [
        {"image": NAMES[0], "turns": turns, "captions": {"zh": ["照片"]}},
        {"image": NAMES[1], "caption": "a photo"},
    ]
    index = opened(made_tables.write_lines(folder / "t.jsonl", rows)).index
    assert (index.languages.tolist(), index.turn_languages.tolist(), index.turns.tolist()) == ([3, 1], [1, 0], [1, 0])


def test_a_table_of_a_hospital(folder: Path) -> None:
    """From a spreadsheet: Chinese names of columns, GB18030, paths of Windows, endings in other letters."""
    lines = ["影像号,图片路径,所见,患者编号"]
    lines += [f"{n},D:\\医院\\images\\{n}.JPG,双肺纹理清晰，第{n}例。,P{n // 2}" for n in range(4)]
    (folder / "报告.csv").write_bytes("\r\n".join(lines).encode("gb18030"))
    table = opened(folder / "报告.csv")
    assert (table.columns.pictures, table.columns.answer, table.columns.group) == (
        ("图片路径",), ("所见",), ("患者编号",))  # fmt: skip
    raw = table.read("", 3)
    assert (raw.key, raw.image) == ("报告 line 5", jpeg(3))
    assert parse(raw.json).captions == {"zh": ("双肺纹理清晰，第3例。",)}
