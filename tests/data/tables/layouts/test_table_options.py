"""What a layout needs besides its file: the other half, a template of names; and what is no table."""

import json
import logging
from pathlib import Path

import pytest
from made_layouts import LAYOUTS, put
from made_tables import write_json, write_lines

from vglm_train.config.data import Fields, Source
from vglm_train.config.validation import FieldError
from vglm_train.data.tables.base import name_row
from vglm_train.data.tables.readers import open_source, open_table
from vglm_train.data.tables.table import Table
from vglm_train.errors import UserError


def opened(path: Path, **options) -> list[dict]:
    file = open_source(Source(name="made", table=str(path), **options))
    rows = [row.values for row in file.scan() if row.values is not None]
    assert rows == [file.row(row.offset, row.size) for row in file.scan() if row.values is not None]
    return rows


def test_a_half_alone_names_the_other(tmp_path: Path) -> None:
    made = LAYOUTS["vqav2"](tmp_path)
    with pytest.raises(
        UserError, match=r"questions without answers; name the file of annotations as join .* it may be"
    ):
        open_table(made.table)
    with pytest.raises(UserError, match=r"answers without their questions; name the file of questions .* it may be"):
        open_table(Path(made.options["join"]))
    with pytest.raises(UserError, match="so join must be a file with annotations; it is not"):
        open_table(made.table, join=str(made.table))
    with pytest.raises(UserError, match=r"gone.json: no such file; join names"):
        open_table(made.table, join=str(tmp_path / "gone.json"))
    with pytest.raises(UserError, match="is read as json, which has no join; it is for vqa, chinese_clip"):
        open_table(write_json(tmp_path / "t.json", [{"image": "0.jpg"}]), join=str(made.table))
    texts = write_lines(tmp_path / "texts.jsonl", [{"text_id": 1, "text": "a", "image_ids": [1]}])
    with pytest.raises(UserError, match=r"texts without pictures; name the other file, ..._imgs.tsv, as join"):
        open_table(texts)


def test_an_answer_that_stands_twice_is_counted(tmp_path: Path) -> None:
    made = LAYOUTS["vqav2"](tmp_path)
    join = Path(made.options["join"])
    notes = json.loads(join.read_text())
    notes["annotations"] += [notes["annotations"][0] | {"answers": [{"answer": "other"}]}, {"question_id": 5}, 7]
    write_json(join, notes)
    file = open_table(made.table, join=str(join))
    causes = [(name_row(file, row), row.cause) for row in file.scan() if row.values is None]
    assert causes == [("annotation row 4", "id"), ("annotation row 5", "partner"), ("annotation row 6", "json")]


def test_names_from_numbers(tmp_path: Path, caplog) -> None:
    put(tmp_path / "train2014", 12, name="COCO_train2014_{:012d}.jpg")
    rows = [
        {"image_id": 12, "question": "a?", "answer": "b"},
        {"image_id": "13"},
        {"image_id": None},
        {"image_id": "x"},
    ]
    path = write_json(tmp_path / "t.json", rows)
    with caplog.at_level(logging.INFO):
        names = [row.get("image") for row in opened(path)]
    assert names == [f"train2014/COCO_train2014_{n:012d}.jpg" for n in (12, 13)] + [None, None]
    assert "pictures are named train2014/COCO_train2014_{image_id:012d}.jpg" in caplog.text
    assert [row.get("image") for row in opened(path, image_template="p/{}.png")] == [
        "p/12.png",
        "p/13.png",
        None,
        "p/x.png",
    ]
    assert "image" not in opened(path, images=str(tmp_path / "nowhere"))[0]
    put(tmp_path, 12)  # called by its number alone: nothing to make
    assert "image" not in opened(path)[0]


@pytest.mark.parametrize(
    ("template", "reason"),
    [("a.jpg", "would call all pictures the same"), ("{image_id", "expected '}'"), ("{image_id:zz}.jpg", "stands for"),
     ("{image_id}", "both say where")],
)  # fmt: skip
def test_a_template_that_cannot_be(template: str, reason: str) -> None:
    fields = Fields(image="img") if "both" in reason else Fields()
    with pytest.raises(FieldError, match=reason):
        Source(name="made", table="t.json", image_template=template, fields=fields)


def test_options_of_a_source() -> None:
    with pytest.raises(FieldError, match="encoding: is of a table; these are shards"):
        Source(name="made", shards="s", encoding="gbk")
    with pytest.raises(FieldError, match="delimiter: must be one character"):
        Source(name="made", table="t.csv", delimiter="||")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("laion.csv", "URL,TEXT\nhttps://example.org/0,a dog\n"),
        ("t.jsonl", '{"url": "https://example.org/0", "caption": "a"}'),
    ],
)
def test_pictures_by_web_address_alone_are_told(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=r"web addresses .* not fetched here: download them"):
        opened(tmp_path / name)
    (tmp_path / "cc3m.tsv").write_text("a dog\thttps://example.org/0\n")
    with pytest.raises(UserError, match="name the columns"):
        opened(tmp_path / "cc3m.tsv")
    with pytest.raises(UserError, match="web addresses"):
        opened(tmp_path / "cc3m.tsv", columns=("caption", "url"))


def test_choices_of_a_okvqa_stay_for_whoever_asks(tmp_path: Path) -> None:
    made = LAYOUTS["aokvqa"](tmp_path)
    [direct] = opened(made.table)
    assert ("choices" in direct, direct["answers"][0]) == (False, "pen")
    [multiple] = opened(made.table, fields=Fields(answer="correct_choice_idx"))
    assert multiple["choices"] == ["cup", "pen"]


def test_an_index_is_of_how_the_table_is_read(tmp_path: Path, monkeypatch) -> None:
    """It is kept on disk: of another encoding, other columns or another half it says something else."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("vglm_train.data.tables.index.CACHED_FROM", 1)
    made = LAYOUTS["vqav2"](tmp_path)
    first = Table(Source(name="made", table=str(made.table), **made.options)).index
    assert len(Table(Source(name="made", table=str(made.table), **made.options)).index) == len(first)
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 1
    notes = json.loads(Path(made.options["join"]).read_text())
    notes["annotations"].append({"question_id": 1})
    write_json(Path(made.options["join"]), notes)
    assert len(Table(Source(name="made", table=str(made.table), **made.options)).index) == len(first) + 1
    (tmp_path / "t.csv").write_text("COCO_val2014_000000000042.jpg,a?,b\n")
    for columns in (("image", "question", "answer"), ("image", "answer", "question")):
        Table(Source(name="made", table=str(tmp_path / "t.csv"), columns=columns, images=made.options["images"]))
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 4


def test_shards_and_folders_that_are_no_table(tmp_path: Path) -> None:
    put(tmp_path / "pictures", 0)
    with pytest.raises(UserError, match=r"this folder is no table.*given as shards"):
        open_table(tmp_path / "pictures")
    (tmp_path / "pictures" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="packed shards, which is no table: give it as shards"):
        open_table(tmp_path / "pictures")
    (tmp_path / "empty.tar").write_bytes(bytes(10240))
    with pytest.raises(UserError, match="holds no sample"):
        open_table(tmp_path / "empty.tar")
    (tmp_path / "t.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(UserError, match="gzip data"):
        open_table(tmp_path / "t.tar")
    (tmp_path / "broken.tar").write_bytes(b"x" * 1024)
    with pytest.raises(UserError, match="not a tar"):
        open_table(tmp_path / "broken.tar")
