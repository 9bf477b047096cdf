"""Text files as people have them: encodings, line ends, shapes of JSON, delimiters. What is plain is read, what is not
is told by its cause."""

import gzip
import json
import logging
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_tables import write_csv, write_json, write_lines

from vglm_train.data.record import RecordError
from vglm_train.data.tables import encoding, json_stream
from vglm_train.data.tables.base import TableFile, name_row
from vglm_train.data.tables.encoding import KEPT_BYTES, Encoding
from vglm_train.data.tables.readers import open_table
from vglm_train.errors import UserError

TEXTS = ("白色的方块，在左上角", 'with "quotes", 见右肺', "两个孩子坐在红色的长椅上。", "a photo of 狗", "𠮷野家的门")
ROWS = [{"image": f"{n}.jpg", "caption": text} for n, text in enumerate(TEXTS)]


def again(file: TableFile) -> list[dict[str, Any]]:
    """All rows by their places; the pass must have seen the same."""
    found = list(file.scan())
    rows = [file.row(span.offset, span.size) for span in found]
    assert rows == [span.values for span in found]
    return rows


def in_encoding(path: Path, name: str, mark: bytes = b"") -> Path:
    path.write_bytes(mark + path.read_text("utf-8").encode(name))
    return path


def write_tsv(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    """As it stands, without quotes."""
    lines = ["\t".join(cells) for cells in (rows[0].keys(), *(row.values() for row in rows))]
    path.write_text("\n".join([*lines, ""]), "utf-8")
    return path


WRITERS = {
    "t.csv": write_csv,
    "t.json": write_json,
    "t.jsonl": write_lines,
    "t.tsv": write_tsv,
}
FOUND = {
    "utf-8": ("utf-8", b""), "utf-8 with a mark": ("utf-8", b"\xef\xbb\xbf"), "gb18030": ("gb18030", b""),
    "utf-16-le": ("utf-16-le", b"\xff\xfe"), "utf-16-be": ("utf-16-be", b"\xfe\xff"),
    "utf-16-le without a mark": ("utf-16-le", b""), "utf-16-be without a mark": ("utf-16-be", b""),
    "utf-32-le": ("utf-32-le", b"\xff\xfe\0\0"),
}  # fmt: skip


@pytest.mark.parametrize("chunk", [7, 1 << 20])
@pytest.mark.parametrize("name", FOUND)
@pytest.mark.parametrize("file", WRITERS)
def test_an_encoding_is_told_from_the_bytes(file: str, name: str, chunk: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    rows = [row | {"caption": row["caption"].replace('"', "")} for row in ROWS] if file == "t.tsv" else ROWS
    WRITERS[file](tmp_path / file, rows)
    assert again(open_table(in_encoding(tmp_path / file, *FOUND[name]))) == rows


def test_a_guess_is_said_once(tmp_path: Path, caplog) -> None:
    path = in_encoding(write_csv(tmp_path / "t.csv", ROWS[:3]), "gbk")
    with caplog.at_level(logging.WARNING):
        open_table(path)
        open_table(path)
    assert caplog.text.count("not in UTF-8, read as gb18030; if that is wrong, set encoding (--encoding)") == 1


OTHERS = {
    "big5": "一隻黑色的狗在草地上奔跑", "cp1252": "Ein Mädchen läuft über die Straße",
    "euc_kr": "잔디밭에서 뛰어노는 검은 개",
    "shift_jis": "黒い犬が芝生を走っている", "euc_jp": "黒い犬が芝生を走っている", "cp1251": "Чёрная собака бежит",
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_encodings_are_named_and_read_by_option(name: str, tmp_path: Path) -> None:
    rows = [{"image": "0.jpg", "caption": "plain"}, {"image": "1.jpg", "caption": OTHERS[name]}]
    path = in_encoding(write_csv(tmp_path / "t.csv", rows), name)
    first, second = open_table(path).scan()
    assert first.values == rows[0]
    assert (second.values, second.cause) == (None, "encoding")  # never as Chinese
    with pytest.raises(RecordError, match=r"not in the encoding .* set encoding .*: it is read in UTF-8"):
        open_table(path).row(second.offset, second.size)
    for opened in (open_table(path, encoding=name), pickle.loads(pickle.dumps(open_table(path, encoding=name)))):
        assert again(opened) == rows


@pytest.mark.parametrize(
    ("name", "reason"),
    [("klingon", "no such encoding: klingon"), ("rot13", "no such encoding"), ("iso2022_jp", "iconv -f iso2022_jp"),
     ("utf-7", "iconv -f utf-7")],
)  # fmt: skip
def test_an_encoding_that_cannot_be_used(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason):
        open_table(write_csv(tmp_path / "t.csv", ROWS), encoding=name)


@given(
    content=st.binary(max_size=60),
    name=st.sampled_from(["utf-8", "gb18030", "utf-16-le", "utf-16-be", "utf-32-le", "big5", "shift_jis", "euc_kr"]),
)
def test_any_bytes_have_their_size(content: bytes, name: str) -> None:
    """Where a row begins is the sum of the sizes before it."""
    assert Encoding(name).size(content.decode(name, KEPT_BYTES)) == len(content)


def test_mostly_utf8_is_utf8(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in ROWS]
    lines[2] = json.dumps(ROWS[2], ensure_ascii=False).encode("gbk")
    path.write_bytes(b"\n".join(lines))
    assert [row.cause for row in open_table(path).scan()] == [None, None, "encoding", None, None]


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.json"])
def test_line_ends(name: str, end: str, tmp_path: Path) -> None:
    rows = [{"image": "0.jpg", "caption": "a"}, {"image": "1.jpg", "caption": "b"}]
    WRITERS[name](tmp_path / name, rows)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes().replace(b"\r\n", b"\n").replace(b"\n", end.encode()))
    assert again(open_table(tmp_path / name)) == rows


A, B, C = ({"image": f"{n}.jpg", "caption": "日" * n} for n in (1, 2, 3))
SHAPES = {
    "a list named .jsonl": ("t.jsonl", json.dumps([A, B, C], indent=1)),
    "a list of a line named .jsonl": ("t.jsonl", json.dumps([A, B, C])),
    "lines named .json": ("t.json", "\n".join(map(json.dumps, (A, B, C)))),
    "lines with commas": ("t.jsonl", ",\n\n".join(map(json.dumps, (A, B, C))) + ",\n"),
    "lines with commas named .json": ("t.json", ",\n".join(map(json.dumps, (A, B, C)))),
    "one behind the other": ("t.jsonl", "".join(map(json.dumps, (A, B, C)))),
    "one behind the other, indented": ("t.json", "\n".join(json.dumps(row, indent=1) for row in (A, B, C))),
    "a list that ends in a comma": ("t.json", f"[{json.dumps(A)}, {json.dumps(B)},\n{json.dumps(C)},\n]"),
    "a list named .csv": ("t.csv", json.dumps([A, B, C])),
    "an unusual key": ("t.json", json.dumps({"info": {"a": []}, "pairs": [A, B, C], "n": [1]})),
    "rows under ids": ("t.json", json.dumps({"7": A, "八": B, "9": C}, ensure_ascii=False, indent=2)),
}


@pytest.mark.parametrize("chunk", [3, 1 << 20])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_of_json(name: str, chunk: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    file, text = SHAPES[name]
    (tmp_path / file).write_text(text, "utf-8")
    table = open_table(tmp_path / file)
    assert [{key: row[key] for key in A} for row in again(table)] == [A, B, C]
    if name == "rows under ids":
        assert [row["id"] for row in again(table)] == ["7", "八", "9"]


def test_one_dialogue_alone_is_a_row_not_a_list(tmp_path: Path) -> None:
    row = {"image": "0.jpg", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]}
    assert again(open_table(write_json(tmp_path / "t.json", row))) == [row]


def test_a_long_first_line(tmp_path: Path, monkeypatch) -> None:
    """Its end is not among the bytes that the shape is told from."""
    monkeypatch.setattr("vglm_train.data.tables.base.SAMPLE", 1000)
    rows = [{"image": "0.jpg", "caption": "x" * 3000}, {"image": "1.jpg", "caption": "y"}]
    assert again(open_table(write_lines(tmp_path / "t.jsonl", rows))) == rows
    split = {"train": rows, "val": rows[1:], "words": ["a"]}
    (tmp_path / "t.json").write_text(json.dumps(split))
    assert [row["split"] for row in again(open_table(tmp_path / "t.json"))] == ["train", "train", "val"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[{"a": 1}, {"a": 2,}]', r"a comma before the closing } \(line 1, byte 19\)"),
        ("[{'a': 1}]", "single quotes, as Python prints them"),
        ('[{"a": 1},\n{"a": ', r"the file ends within a value \(line 2"),
        ('[{"a": 1}]\n[{"a": 2}]', r"expected the end of the file behind the list, found \[ \(line 2"),
        (
            '{"pairs": [{"a": 1}], "others": [{"b": 1}]}',
            r"objects stand under several keys: pairs \(of a\); others \(of b\). Write those",
        ),
        ("image,caption\n", "it begins with 'i'"),
        ("", "it is empty"),
        ("[" * 100_000, "too deep to be data"),
    ],
)
def test_what_is_wrong_with_json_is_told(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(text, "utf-8")
    with pytest.raises(UserError, match=reason):
        list(open_table(tmp_path / "t.json").scan())


DELIMITERS = {
    "commas named .tsv": ("t.tsv", "image,caption\n0.jpg,a\n1.jpg,b\n"),
    "tabs named .csv": ("t.csv", "image\tcaption\n0.jpg\ta\n1.jpg\tb\n"),
    "bars": ("t.csv", "image|caption\n0.jpg|a\n1.jpg|b\n"),
    "bars and blanks": ("t.csv", "image| caption\n0.jpg| a\n1.jpg| b\n"),
    "semicolons": ("t.csv", 'image;caption\n0.jpg;a\n1.jpg;"b"\n'),
    "blanks behind commas": ("t.csv", 'image, caption\n0.jpg, a\n1.jpg, "b"\n'),
    "a comma in a name": ("t.csv", "image\tcaption, short\n0.jpg\ta\n1.jpg\tb\n"),
    "commas at the ends": ("t.csv", "image,caption,\n0.jpg,a,\n1.jpg,b,,,\n"),
    "blank lines": ("t.csv", "\n  \nimage,caption\n\n0.jpg,a\n\n1.jpg,b\n\n"),
    "a name of .txt": ("t.txt", "image,caption\n0.jpg,a\n1.jpg,b\n"),
}


@pytest.mark.parametrize("name", DELIMITERS)
def test_a_delimiter_is_told_from_the_first_rows(name: str, tmp_path: Path) -> None:
    file, text = DELIMITERS[name]
    (tmp_path / file).write_text(text)
    assert [list(row.values()) for row in again(open_table(tmp_path / file))] == [["0.jpg", "a"], ["1.jpg", "b"]]


def test_a_delimiter_and_columns_by_option(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("0.jpg#a, or b\n1.jpg#c\n")
    table = open_table(tmp_path / "t.csv", delimiter="#", columns=("image", "caption"))
    assert again(table) == [{"image": "0.jpg", "caption": "a, or b"}, {"image": "1.jpg", "caption": "c"}]


@pytest.mark.parametrize("first", ["images/0.jpg,a dog", "a dog\thttps://example.org/0"])
def test_a_file_without_names_of_columns_says_so(first: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"{first}\n")
    with pytest.raises(UserError, match=r"no name of a column; name the columns: columns: \[image, caption\]"):
        open_table(tmp_path / "t.csv")


def test_a_quote_that_is_not_closed_costs_its_line_alone(tmp_path: Path, monkeypatch) -> None:
    lines = ["image,caption", '0.jpg,"a b', '1.jpg,"c', 'd"', '2.jpg,"e" f', "3.jpg,g", '4.jpg,"h']
    lines += [f"{n}.jpg,x" for n in range(5, 60)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    monkeypatch.setattr("vglm_train.data.tables.separated.LONGEST_QUOTED", 100)  # the last one's is not looked for far
    file = open_table(tmp_path / "t.csv")
    rows = list(file.scan())
    causes = [(name_row(file, row), row.cause) for row in rows[:5]]
    assert causes == [("line 2", "quote"), ("line 3", None), ("line 5", "quote"), ("line 6", None), ("line 7", "quote")]
    assert [row.values["image"] for row in rows if row.values] == [
        "1.jpg",
        "3.jpg",
        *(f"{n}.jpg" for n in range(5, 60)),
    ]
    assert rows[1].values == {"image": "1.jpg", "caption": "c\nd"}
    with pytest.raises(RecordError, match="a quote that is opened and not closed"):
        open_table(tmp_path / "t.csv").row(rows[0].offset, rows[0].size)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.jsonl", gzip.compress(b"{}", mtime=0), r"is gzip data: .*gunzip -k .*t\.jsonl"),
        ("t.csv", b"\x28\xb5\x2f\xfd rest", "zstd -d -k"),
        ("t.json", b"BZh91AY&SY", "bunzip2"),
        ("t.xlsx", b"PK\x03\x04 rest", "an Excel workbook: save it as CSV"),
        ("t.zip", b"PK\x03\x04 rest", "a zip archive: unpack it"),
        ("train_qa.pkl", pickle.dumps([1]), r"a pickle: .* never is\. Take .*Parquet"),
        ("train_qa.json", pickle.dumps([1]), "a pickle: "),
        ("t.csv", b"PAR1....", "name it .parquet"),
        ("t.csv", b"SQLite format 3\0", "an SQLite data base: write its rows as JSONL"),
        ("t.csv", b"\xff\xd8\xff\xe0", "a JPEG picture: no table"),
        ("t.json", b"\n <!DOCTYPE html><html>", "is a web page .HTML.: what should"),
        ("t.json", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        ("t.xml", b"<annotation>", "Give format .*json: a list of objects.*chinese_clip: .*Chinese-CLIP"),
    ],
)
def test_what_is_no_text_is_named(name: str, content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=reason):
        open_table(tmp_path / name)


def test_common_signs_are_common() -> None:
    assert all(encoding.CHINESE.match(sign) for sign in encoding.COMMON)
