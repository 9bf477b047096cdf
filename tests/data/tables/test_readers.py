"""Every row is found in one pass and read again by its place."""

import json
import pickle
from pathlib import Path

import pytest
from made_tables import write_csv, write_json, write_lines

from vglm_train.data.record import RecordError
from vglm_train.data.tables import json_stream
from vglm_train.data.tables.base import name_row
from vglm_train.data.tables.readers import open_table
from vglm_train.errors import UserError

ROWS = [
    {"img": f"{n}.jpg", "text": text} for n, text in enumerate(["a photo", 'with "quotes", {[', "照片\n第二行", "é"])
]


def again(path: Path) -> list[dict]:
    """All rows by their places; the pass must have seen the same."""
    file = open_table(path)
    found = list(file.scan())
    rows = [file.row(span.offset, span.size) for span in found]
    assert rows == [span.values for span in found]
    return rows


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize("layout", ["indented", "ascii", "mark", "annotations", "tight"])
def test_json(tmp_path: Path, monkeypatch, chunk: int, layout: str) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    path = tmp_path / "t.json"
    text = {
        "indented": json.dumps(ROWS, ensure_ascii=False, indent=2),
        "ascii": json.dumps(ROWS),
        "mark": "\ufeff \n" + json.dumps(ROWS, ensure_ascii=False),
        "annotations": json.dumps({"info": {"a": [1]}, "annotations": ROWS, "n": 1}, ensure_ascii=False),
        "tight": json.dumps(ROWS, ensure_ascii=False, separators=(",", ":")),
    }[layout]
    path.write_text(text, "utf-8")
    assert again(path) == ROWS


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_lines_under_either_name(tmp_path: Path, name: str) -> None:
    assert again(write_lines(tmp_path / name, ROWS)) == ROWS


@pytest.mark.parametrize(("name", "delimiter"), [("t.csv", ","), ("t.csv", ";")])
def test_quoted_cells_over_several_lines(tmp_path: Path, name: str, delimiter: str) -> None:
    assert again(write_csv(tmp_path / name, ROWS, delimiter)) == ROWS


def test_tsv_is_never_quoted(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text('img\ttext\r\na.jpg\tan "odd\r\nb.jpg\t\r\n', "utf-8")
    assert again(tmp_path / "t.tsv") == [{"img": "a.jpg", "text": 'an "odd'}, {"img": "b.jpg"}]


IMAGES = [{"id": 7, "file_name": "a.jpg"}, {"id": "八", "file_name": "b.jpg"}, {"id": 9, "file_name": "c.jpg"}]
NOTES = [("八", "照片"), (7, "a photo"), ("八", 'with "quotes", {['), (7, "again")]


@pytest.mark.parametrize("first", ["images", "annotations"])
def test_coco_images_with_their_captions(tmp_path: Path, monkeypatch, first: str) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", 7)
    notes = [{"id": n, "image_id": image, "caption": caption} for n, (image, caption) in enumerate(NOTES)]
    parts = {"info": {"images": []}, "images": IMAGES, "annotations": notes}
    ordered = {name: parts[name] for name in ([*parts] if first == "images" else [*reversed(parts)])}
    (tmp_path / "t.json").write_text(json.dumps(ordered, ensure_ascii=False, indent=1), "utf-8")
    assert again(tmp_path / "t.json") == [
        {"id": 7, "image": "a.jpg", "captions": ["a photo", "again"]},
        {"id": "八", "image": "b.jpg", "captions": ["照片", 'with "quotes", {[']},
        {"id": 9, "image": "c.jpg", "captions": []},
    ]
    copy = pickle.loads(pickle.dumps(open_table(tmp_path / "t.json")))
    assert copy.row(1, 1)["captions"] == ["照片", 'with "quotes", {[']


def test_annotations_without_images_are_rows(tmp_path: Path) -> None:
    """MiniGPT-4's file."""
    rows = [{"image_id": "2", "caption": "a photo"}]
    assert again(write_json(tmp_path / "t.json", {"annotations": rows})) == rows


NAMED = {
    "t.csv": ('a,b\n1,"x\ny"\n2\n', [("line 2", None), ("line 4", "columns")]),
    "t.tsv": ("a\tb\r1\t2\r3\t4", [("line 2", None), ("line 3", None)]),
    "t.jsonl": ('{"a": 1}\n\n{"a": 2}\n[]\n', [("line 1", None), ("line 3", None), ("line 4", "json")]),
    "t.json": ('[{"a": 1}, 2]', [("row 1", None), ("row 2", "json")]),
    "objects.json": ('{"a":\n 1}\n\n {"a": 2}', [("row 1", None), ("row 2", None)]),
    "member.json": ('{"x": 1, "data": [{"a": 1}, {"a": 2}]}', [("row 1", None), ("row 2", None)]),
    "keyed.json": ('{"p1": {"image": 1}, "\\u72d7": {"image": 2}}', [("row 'p1'", None), ("row '狗'", None)]),
    "splits.json": (
        '{"train": [{"a": 1}, 3], "val": [{"a": 2}]}',
        [("train row 1", None), ("train row 2", "json"), ("val row 1", None)],
    ),
    "coco.json": (
        '{"images": [{"id": 4, "file_name": "x"}, {"id": 4}], "annotations": [{"image_id": 4, "caption": "a"}, 7]}',
        [("image row 1", None), ("image row 2", "id"), ("annotation row 2", "json")],
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_rows_are_named_from_one_as_people_find_them(name: str, tmp_path: Path) -> None:
    text, named = NAMED[name]
    (tmp_path / name).write_text(text, "utf-8", newline="")
    file = open_table(tmp_path / name)
    assert [(name_row(file, row), row.cause) for row in file.scan()] == named


def test_damage_costs_its_row_alone(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(b'{"a": 1}\n{"a": \n[1]\n\n{"a": "\xff"}\n{"a": 2}\n')
    file = open_table(tmp_path / "t.jsonl")
    spans = list(file.scan())
    assert [span.values for span in spans] == [{"a": 1}, None, None, None, {"a": 2}]
    for span, reason in zip(
        spans[1:4], ["not a JSON object: Exp", "not a JSON object: found a list", "encoding .*: it is read in UTF-8"]
    ):
        with pytest.raises(RecordError, match=reason):
            file.row(span.offset, span.size)
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3\n4,5\n")
    assert [span.values for span in open_table(tmp_path / "t.csv").scan()] == [
        {"a": "1", "b": "2"},
        None,
        {"a": "4", "b": "5"},
    ]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.json", "[{}, {]", r"Expecting property name.*\(line 1, byte 6\)"),
        ("t.json", '[{"a": 1} {"a": 2}]', "expected , or ]"),
        ("t.json", '[{"a": "照片"}, {"a"', r"ends within a value \(line 1, byte 2"),
        ("t.json", "3", "begins with '3'"),
        ("t.json", "", "it is empty"),
        ("t.json", '{"images": [{"id": 1}], "annotations": [{"image_id": 1, "bbox": []}]}', "not a COCO captions file"),
        ("t.csv", "a,a\n1,2\n", "'a' occurs twice"),
        ("t.xlsx", "", "no table that is known"),
    ],
)
def test_what_is_no_table(tmp_path: Path, name: str, content: str, reason: str) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(UserError, match=reason):
        list(open_table(tmp_path / name).scan())


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        open_table(tmp_path / "t.json")


def test_a_long_broken_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = write_json(tmp_path / "t.json", [{"a": "x" * 1000}] * 5000)
    path.write_text(path.read_text().replace('"a"', "a", 1))
    with pytest.raises(UserError, match=r"line 3, byte [0-9]\)"):
        list(open_table(path).scan())
